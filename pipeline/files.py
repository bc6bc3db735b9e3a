"""Files: complete or not there at all, their digests, and the word when one is missing."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

from ..calibration.named import did_you_mean
from ..errors import CompressError
from ..writing import writing


def write_atomically(path: Path, content: bytes) -> None:
    """Write `content` beside `path`, then rename: a killed process leaves the old file or the new one.

    CompressError that names the path when its place is full, read-only, or gone.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".unfinished-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            Path(name).chmod(0o644)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def sha256_file(path: Path) -> str:
    """The hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_file(path: Path, what: str) -> None:
    """CompressError unless `path` is a file with something in it."""
    if not path.is_file():
        if path.is_dir():
            such = ", as model.onnx" if (path / "model.onnx").is_file() else ""
            raise CompressError(f"{what}: {path} is a folder, not a file; name a file in it{such}")
        near = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise CompressError(f"{what}: {path} does not exist{did_you_mean(path.name, near)}")
    if path.stat().st_size == 0:
        raise CompressError(f"{what}: {path} is empty (0 bytes)")
