"""What `torch.save` wrote, read without running it: archives, old streams of pickles, and why one is refused."""

from __future__ import annotations

import hashlib
import io
import pickle
import re
import tarfile
import zipfile
from pathlib import Path
from typing import IO, Any

import torch

from ...errors import CompressError, UnsafeInputError
from ..files import sha256_file
from .pickle_scan import imported_names, why_refused
from .zip_archive import has_end, is_zip, two_readings

MAX_UNPACKED_BYTES = 64 * 2**30
MAX_RATIO = 20  # torch.save does not compress; more than this is an archive made to exhaust memory
_PLAIN = re.compile(
    r"torch\._utils\._rebuild\w+|torch\.storage\.\w+|torch\.\w+Storage|collections\.OrderedDict"
)
UNREADABLE_ZIP = (
    zipfile.BadZipFile,
    OSError,
    ValueError,
    RuntimeError,
    NotImplementedError,
    EOFError,
    MemoryError,
)
"""What `zipfile` raises for a damaged or encrypted member, or one packed in a way that it does not know."""


def load_pickle(path: Path, trust_pickle: str | None = None) -> Any:
    """What `torch.load` finds, without running code unless the file's own SHA-256 is `trust_pickle`.

    UnsafeInputError for a file that would run code or exhaust or end this process, CompressError for one that
    is damaged or no checkpoint.
    """
    if trust_pickle is not None:
        content = path.read_bytes()  # hashed and loaded from the same bytes: nobody can swap the file between
        if hashlib.sha256(content).hexdigest() == trust_pickle.lower():
            return _torch_load(io.BytesIO(content), path, weights_only=False)
    with path.open("rb") as file:
        if not is_zip(file) and _is_tar(file):
            raise CompressError(
                f"weights: {path} is a plain tar archive, not a checkpoint of torch.save: unpack it, and name the file"
                f" with the weights that it holds"
            )
        refuse_attacks(file, path)
        return _torch_load(file, path, weights_only=True)


def _is_tar(file: IO[bytes]) -> bool:
    file.seek(0)
    return tarfile.is_tarfile(file)


def refuse_bombs(file: IO[bytes], path: Path) -> None:
    """UnsafeInputError for a zip archive that unpacks to far more than the file's size; `path` is for messages."""
    size = file.seek(0, 2)
    try:
        if not zipfile.is_zipfile(file):
            return
        with zipfile.ZipFile(file) as archive:
            unpacked = sum(info.file_size for info in archive.infolist())
    except UNREADABLE_ZIP as error:
        raise damaged_zip(path, error) from error
    if unpacked > MAX_UNPACKED_BYTES or unpacked > MAX_RATIO * size:
        raise UnsafeInputError(
            f"{path}: {size:,} bytes would unpack to {unpacked:,}; no checkpoint does that"
        )


def damaged_zip(path: Path, error: Exception) -> CompressError:
    """The error for an archive of which a member cannot be read."""
    reason = re.sub(r"<ZipInfo filename=(.{1,80}?) .*?>", r"\1", str(error)) or type(error).__name__
    return CompressError(
        f"{path} cannot be unpacked: {reason[:200]}; it may be damaged: save it again with torch.save"
    )


def _not_opened(file: IO[bytes], path: Path) -> CompressError:
    """The error for a file that begins as a zip archive, and of which Python finds no end that it can read."""
    if has_end(file):
        return UnsafeInputError(
            f"{path} is a zip archive with something behind its end; no checkpoint has that"
        )
    return CompressError(
        f"weights: {path} is not a checkpoint of torch.save (a zip archive without its end); it may be cut short or"
        f" have another format"
    )


def untrusted(path: Path, finding: str) -> UnsafeInputError:
    """The refusal of a file that could run code, with the way to trust this very file."""
    return UnsafeInputError(
        f"{path} {finding}, and reading it could run that code. Save plain tensors instead (a state dict,"
        f" best as .safetensors), or, if you trust this file: --trust-pickle {sha256_file(path)}"
    )


def refuse_attacks(file: IO[bytes], path: Path) -> None:
    """Refuse what torch would trust, and must not, in a file of torch.save; `path` is for messages."""
    zipped = is_zip(file)
    refuse_bombs(file, path)
    if zipped and not zipfile.is_zipfile(file):
        raise _not_opened(file, path)  # torch's reader may open what nothing here has looked into
    try:
        if zipped and (reason := two_readings(file)):
            raise UnsafeInputError(f"{path} {reason}; no checkpoint does that")
        finding = why_refused(file)
    except UNREADABLE_ZIP as error:
        if not zipped:
            return  # torch says what it lacks
        raise damaged_zip(path, error) from error
    if finding is None:
        return
    if finding.unsafe:
        raise UnsafeInputError(f"{path} {finding.reason}; no checkpoint does that")
    raise CompressError(f"weights: {path} {finding.reason}")


def _torch_load(file: IO[bytes], path: Path, weights_only: bool) -> Any:
    file.seek(0)
    try:
        return torch.load(file, map_location="cpu", weights_only=weights_only)
    except Exception as error:
        raise _load_error(error, path) from error


def _load_error(error: Exception, path: Path) -> CompressError:
    text = str(error)
    if "TorchScript" in text:
        return CompressError(
            f"weights: {path} is a TorchScript archive, not a set of tensors; save its state dict, or the"
            f" network with torch.export.save as .pt2"
        )
    names = [name for name in _names(path) if not _PLAIN.fullmatch(name)]
    blocked = re.search(r"GLOBAL ([\w.]+\.\w+)", text)
    if blocked and blocked[1] in names:  # a name that is not in the file whole was cut off with its end
        names = [blocked[1]]
    if isinstance(error, pickle.UnpicklingError) and names:
        return untrusted(path, f"is a pickle that calls {names[0][:200]}")
    if isinstance(error, pickle.UnpicklingError) and re.search(r"REDUCE|BUILD|NEWOBJ", text):
        return untrusted(path, "is a pickle that holds code")
    return CompressError(
        f"weights: {path} is not a checkpoint of torch.save ({_brief(error)}); it may be cut short or have"
        f" another format"
    )


def _names(path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            return imported_names(file)
    except UNREADABLE_ZIP:
        return []


def _brief(error: Exception) -> str:
    """The first useful words of torch's message, which may be a page long."""
    text = " ".join(str(error).split())
    found = re.search(r"WeightsUnpickler error: (.*?)(?: Check the documentation|$)", text)
    return (found[1] if found else text.split(". ")[0])[:160] or type(error).__name__
