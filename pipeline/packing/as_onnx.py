"""The ONNX file that a model's file is or holds; nothing heavy is imported for the first kind."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def as_onnx(path: Path) -> Iterator[Path]:
    """The path of an ONNX file: itself, or for an .l2z file its graph, unpacked for as long as it is needed."""
    if path.suffix != ".l2z":
        yield path
        return
    from .l2z_file import unpack_file

    with tempfile.TemporaryDirectory() as folder:
        unpacked = Path(folder) / f"{path.stem}.onnx"
        unpack_file(path, unpacked)
        yield unpacked
