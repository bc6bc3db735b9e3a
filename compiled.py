"""Loops over single weights as machine code: numba compiles them at their first call and keeps the result on disk."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., object])


def compiled(function: F) -> F:
    """The same function, compiled for the types of its first call; integers and floats compute as IEEE 754 has it.

    It may call and name only what stands in its own file: what is kept is made anew when that file changes.
    """
    try:
        return cast(F, numba.njit(cache=True)(function))
    except RuntimeError:  # neither beside the file nor in the user's own folder can anything be kept
        return cast(F, numba.njit(function))
