"""Lock: one run at a time in a folder."""

from __future__ import annotations

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
        opened = (folder / ".lock").open("w")
    with opened as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise CompressError(
                    f"{folder}: another run is working in this folder; wait for it, or name another folder with -o"
                ) from error
        yield
