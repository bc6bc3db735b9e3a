"""Ladders: tensors of evenly spaced values about zero, of which the file tells the first few only.

A symbol s stands for the multiple p = s - 128, or in a trellis for a k from which p follows. The value of p > 0 is
that of the p-th rung, that of -p its negative, and 0 is 0. Rungs that are not told continue the last distance.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...errors import CompressError
from ...model import CodedTensor
from ...trellis import positions, steps_of
from .kernels import CENTRE, Bytes

MOST_RUNGS = 255
"""Most rungs of a ladder: as far as a trellis of one-byte k reaches."""

Rungs = NDArray[np.float32]


def rungs_for(values: Rungs) -> Rungs | None:
    """The fewest rungs that tell all `values`, (2m + 1,) ascending about zero; None where they are no such values."""
    middle = len(values) // 2
    above = values[middle + 1 :]
    if len(values) % 2 == 0 or len(values) < 3 or values[middle].tobytes() != bytes(4):
        return None
    if (-values[:middle][::-1]).tobytes() != above.tobytes() or not bool(np.isfinite(above).all()):
        return None
    for told in range(1, min(len(above), MOST_RUNGS) + 1):
        if value_of(above[:told], np.arange(1, middle + 1)).tobytes() == above.tobytes():
            return above[:told]
    return None


def value_of(rungs: Rungs, multiples: NDArray[np.integer]) -> Rungs:
    """The value of each multiple p, same shape, as float32: computed in binary64 and rounded once,
    to infinity where it is out of range."""
    heights = np.concatenate([[0.0], rungs.astype(np.float64)])
    told = len(rungs)
    with np.errstate(over="ignore", invalid="ignore"):
        beyond = np.arange(1, 2 * MOST_RUNGS + 2 - told) * (heights[told] - heights[told - 1])
        ladder = np.concatenate([heights, heights[told] + beyond]).astype("<f4")
    table = np.concatenate([-ladder[:0:-1], ladder])
    found: Rungs = table[multiples.astype(np.int64) + len(ladder) - 1]
    return found


def symbols_of(coded: CodedTensor) -> Bytes:
    """The symbols of a tensor whose values are a ladder, (n,).

    Raises CompressError where the indices are no walk through it.
    """
    steps = coded.indices.numpy().astype(np.int16).reshape(-1) - np.int16(len(coded.values) // 2)
    if coded.trellis:
        steps, possible = steps_of(steps, coded.trellis)
        if not possible:
            raise CompressError("pack: the indices of a coded tensor are no walk through the trellis")
    return (steps + CENTRE).astype(np.uint8)


def from_ladder(symbols: Bytes, rungs: Rungs, trellis: int) -> Bytes:
    """The bytes of the float32 values of symbols, (n,)."""
    multiples = symbols.astype(np.int16) - np.int16(CENTRE)
    if trellis:
        multiples = positions(multiples, trellis)
    return value_of(rungs, multiples).view(np.uint8)
