"""Lock: one run at a time in a folder, and who works on what in a store."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import CompressError
from ..writing import writing

try:
    import fcntl
except ImportError:  # Windows: two runs in one folder are then the user's own care
    fcntl = None  # type: ignore[assignment]


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder for this run; the system lets go when the process ends, however it ends.

    Raises CompressError when another run holds it.
    """
    with writing(folder / ".lock"):
        (folder / ".lock").touch()
    with held(folder / ".lock") as mine:
        if not mine:
            raise CompressError(
                f"{folder}: another run is working in this folder; wait for it, or name another folder with -o"
            )
        yield


@contextmanager
def held(path: Path) -> Iterator[bool]:
    """Hold a lock file for as long as the block runs, made where it is missing; whether it could be had.

    Raises FileNotFoundError when its folder is not there, or went with it as it was locked.
    """
    with path.open("a") as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            except OSError as error:  # a network's file system without locks
                raise CompressError(
                    f"{path.parent}: cannot be locked ({error.strerror}); name a folder on a disk that supports locks"
                ) from error
            if os.fstat(file.fileno()).st_ino != path.stat().st_ino:
                raise FileNotFoundError(path)  # another one, of that name, was taken away
        yield True
