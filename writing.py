"""Writing to places that may be full, read-only or gone: one message with the place and what to do."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import CompressError

FULL = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
FULL_WORDS = (
    "no space left on device",
    "os error 28",
    "disk quota exceeded",
    "file too large",
    "os error 27",
    "iostream error",  # OpenVINO, of any file that it cannot write to its end
)
"""What libraries that have no error numbers say of it, in small letters."""
NO_SPACE = "No space left on device; free some, or name a folder on another disk"
ALMOST = 1 << 20
"""Bytes free below which a library's own words for a write that failed mean a full disk."""


class NotWrittenError(CompressError):
    """A place that could not be written to: full, read-only, or gone."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise NotWrittenError that names `path` for whatever keeps a library or this program from writing it."""
    try:
        yield
    except CompressError:
        raise
    except OSError as error:
        raise NotWrittenError(_of_system(path, error)) from error
    except Exception as error:  # SafetensorError, and what OpenVINO and protobuf raise
        if not is_full(error) and free(path) > ALMOST:
            raise
        raise NotWrittenError(f"{path}: {NO_SPACE}") from error


@contextmanager
def writing_whole(*paths: Path) -> Iterator[None]:
    """Guard files that a library writes as `writing` guards one; none of them stays when that fails.

    A library may say nothing of a full disk: where the first file is missing or empty, it was not written.
    """
    try:
        with writing(paths[0]):
            paths[0].parent.mkdir(parents=True, exist_ok=True)
            yield
            if not paths[0].is_file() or not paths[0].stat().st_size:
                raise OSError(errno.ENOSPC, "No space left on device")
    except BaseException:
        for path in paths:
            path.unlink(missing_ok=True)
        raise


def is_full(error: BaseException) -> bool:
    """Whether an error says that a disk is full, in whatever words."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in FULL
    return any(words in str(error).lower() for words in FULL_WORDS)


def free(path: Path) -> int:
    """Bytes that are free where `path` is or would be."""
    for place in (path, *path.absolute().parents):
        if place.is_dir():
            return shutil.disk_usage(place).free
    return 0


def _of_system(path: Path, error: OSError) -> str:
    if is_full(error):
        return f"{path}: {NO_SPACE}"
    place = path if error.filename is None else error.filename
    beside = "" if str(place) == str(path) else f" (to write {path})"
    todo = {
        errno.EACCES: "name a folder that may be written to",
        errno.EPERM: "name a folder that may be written to",
        errno.EROFS: "name a folder that may be written to",
        errno.ENOTDIR: "a file is where a folder should be: name another folder",
        errno.EEXIST: "a file is where a folder should be: name another folder",
        errno.EISDIR: "a folder is where a file should be: remove it, or name another one",
        errno.ENOENT: "its folder was taken away while it was written to",
    }.get(error.errno or 0, "")
    return f"{place}: {error.strerror or error}{beside}" + (f"; {todo}" if todo else "")
