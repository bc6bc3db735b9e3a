"""Limits of what a stranger's file can make a machine do: a few bytes can ask for any time and any memory.

Checking, inferring shapes, folding constants, converting and a first inference all compute what the file says. They
happen in a process of their own, which is ended at a limit with one message.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock, Timer
from typing import Any, TypeVar

import psutil

from .. import isolated
from ..isolated import Child, ChildDiedError, Limits

Result = TypeVar("Result")

SECONDS = 120.0
MEMORY_SHARE = 0.5
"""Share of the free memory that judging any file may take."""
MEMORY, MEMORY_A_BYTE = 3 * 2**30, 12
"""What judging a file may take: libraries and activations, and copies of its weights (in runtimes, in PyTorch)."""
MOST_HELD = 2**30
"""Bytes that a process may hold after one file to be kept for the next, which is judged by what it holds."""
IDLE_S = 15.0
"""A process that has imported PyTorch is kept as long as this for the next file."""


def within_limits(doing: str, function: Callable[..., Result], path: Path, *args: Any) -> Result:
    """`function(path, *args)` in a process of its own, with 120 s and with memory after the file's size.

    doing: for the message, as "inspecting". Errors as those of `isolated.Child.call`; where the limits are reached it
    names the environment variables that raise them.
    """
    if isolated.in_child():
        return function(path, *args)
    child = _take()
    child.limits = Limits(SECONDS, _memory_for(path)).in_force()
    answered = False
    try:
        found: Result = child.call(f"{doing} {path}", _in_folder, str(Path.cwd()), function, path, *args)
        answered = True
        return found
    except ChildDiedError:
        raise
    except Exception:
        answered = True
        raise
    finally:
        _keep(child) if answered else child.close()


def _in_folder(folder: str, function: Callable[..., Result], *args: Any) -> Result:
    os.chdir(folder)  # paths are relative to where the command is now
    return function(*args)


@dataclass
class _Kept:
    """The process that waits for the next file.

    said: what the environment said of limits, and of what can be imported, when it began.
    """

    child: Child
    said: tuple[str | None, ...]
    timer: Timer


_LOCK = Lock()
_kept: list[_Kept] = []  # at most one


def _said() -> tuple[str | None, ...]:
    return tuple(map(os.environ.get, (isolated.SECONDS, isolated.BYTES, "PYTHONPATH")))


def _memory_for(path: Path) -> int:
    """Bytes that judging the file may take: by all that lies in its folder, where weights of any name may stand."""
    folder = path.parent if path.parent.is_dir() else Path()
    stored = 0
    with suppress(OSError):  # others may write there meanwhile, or not let us look
        for file in folder.iterdir():
            stored += file.stat().st_size if file.is_file() else 0
    free = psutil.virtual_memory().available
    return min(MEMORY + MEMORY_A_BYTE * stored, int(MEMORY_SHARE * free))


def _take() -> Child:
    with _LOCK:
        kept = _kept.pop() if _kept else None
    if kept is not None:
        kept.timer.cancel()
        if kept.said == _said():
            return kept.child
        kept.child.close()
    return Child()


def _keep(child: Child) -> None:
    if child.held > MOST_HELD:
        child.close()
        return
    timer = Timer(IDLE_S, _end_idle)
    timer.daemon = True
    with _LOCK:
        others = list(_kept)
        _kept[:] = [_Kept(child, _said(), timer)]
    for other in others:
        other.timer.cancel()
        other.child.close()
    timer.start()


def _end_idle() -> None:
    with _LOCK:
        idle = list(_kept)
        _kept.clear()
    for kept in idle:
        kept.child.close()
