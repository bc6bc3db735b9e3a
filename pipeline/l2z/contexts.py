"""Which table codes each symbol of a plane: one for all, or one for each class of rows, columns or kernel positions.

Weights of one tensor differ in size from output channel to output channel, and from input channel to input channel.
The slices along one axis are sorted into classes, each with a table of its own, so that the plane takes the fewest
bytes, tables and the list of classes counted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .rans import Bytes, Table
from .tables import coded_bits, table_of, write_table

CLASSES = (2, 4, 8, 16)
ROUNDS = 4
ALIKE = 7.95
"""Bits a symbol from which on coding is not worth the while."""
LEAST_GAIN = 0.004
"""What slices must differ by to be sorted, as a share of the plane."""
TABLE_BYTES = 1.3
"""Of an entry of a table, about."""
_MOST_SLICES = 1 << 16

Counts = NDArray[np.float64]
"""Of the 256 symbols, (slices, 256): whole numbers below 2^53, as floats, whose matrices multiply many times faster."""


@dataclass(frozen=True)
class Plan:
    """How a plane is coded. axis: of whose slices `classes` tells the table, None where one table codes all."""

    tables: list[Table]
    axis: int | None
    classes: Bytes
    size: float
    """Bytes, by estimate."""


def plan(symbols: Bytes, shape: tuple[int, ...]) -> Plan | None:
    """The smallest plan that was found for a plane of a tensor of `shape`; None where all symbols are alike often."""
    whole = np.bincount(symbols, minlength=256)[None].astype(np.float64)
    if not len(symbols) or _entropy(whole)[0] > ALIKE:
        return None
    best, found = _plan(whole, None, np.zeros(1, np.int64)), None
    estimate = best.size
    for axis, length in enumerate(shape[:4]):
        if 1 < length <= _MOST_SLICES and length < len(symbols):
            counts = _counts(symbols, shape, axis)
            own = _entropy(counts)
            for classes in (c for c in CLASSES if c <= length) if _promising(counts, own) else ():
                chosen = _classify(counts, own, classes)
                size = _estimate(counts, chosen, classes)
                if size < estimate:
                    estimate, found = size, (counts, axis, chosen)
    if found is not None:
        sorted_out = _plan(*found)
        best = sorted_out if sorted_out.size < best.size else best
    return best


def choices(axis: int | None, classes: Bytes, shape: tuple[int, ...], first: int) -> NDArray[np.uint16]:
    """For each symbol of a tensor of `shape` the number of its table, that of class 0 being `first`."""
    count = int(np.prod(shape, dtype=np.int64))
    if axis is None:
        return np.full(count, first, np.uint16)
    numbers = (classes.astype(np.uint16) + np.uint16(first)).reshape(
        [-1 if a == axis else 1 for a in range(len(shape))]
    )
    return np.broadcast_to(numbers, shape).reshape(-1)


def _counts(symbols: Bytes, shape: tuple[int, ...], axis: int) -> Counts:
    """How often each symbol occurs in each slice."""
    length = shape[axis]
    inner = int(np.prod(shape[axis + 1 :], dtype=np.int64))
    cells = symbols.reshape(-1, length, inner).astype(np.int64)
    cells += np.arange(length)[None, :, None] * 256
    return np.bincount(cells.reshape(-1), minlength=256 * length).reshape(length, 256).astype(np.float64)


def _promising(counts: Counts, entropies: NDArray[np.float64]) -> bool:
    """Whether slices differ by more than chance: their own entropies, corrected for how few symbols each has (Miller
    and Madow 1955), are together well below that of all."""
    own = float((entropies * counts.sum(1)).sum())
    own += (np.count_nonzero(counts) - len(counts)) / (2 * np.log(2))
    together = counts.sum(0)
    return bool(own < (1 - LEAST_GAIN) * _entropy(together[None])[0] * together.sum())


def _classify(counts: Counts, entropies: NDArray[np.float64], classes: int) -> NDArray[np.int64]:
    """The class of each slice, by Lloyd's rounds: each slice goes to the table that codes it shortest."""
    chosen = np.empty(len(counts), np.int64)
    order = np.argsort(entropies, kind="stable")
    chosen[order] = np.arange(len(counts)) * classes // len(counts)
    for _ in range(ROUNDS):
        sums = _sums(counts, chosen, classes)
        smoothed = sums + sums.sum(0) / sums.sum() + 1e-9
        lengths = -np.log2(smoothed / smoothed.sum(1, keepdims=True))
        chosen = (counts @ lengths.T).argmin(1)
    return chosen


def _estimate(counts: Counts, chosen: NDArray[np.int64], classes: int) -> float:
    """About the bytes of a plan, without making its tables."""
    sums = _sums(counts, chosen, classes)
    bits = float((_entropy(sums) * sums.sum(1)).sum()) + len(counts) * np.log2(classes)
    return float(bits / 8 + TABLE_BYTES * (sums > 0).sum())


def _plan(counts: Counts, axis: int | None, chosen: NDArray[np.int64]) -> Plan:
    """The plan with one table for each class that has slices."""
    used, chosen = np.unique(chosen, return_inverse=True)
    sums = _sums(counts, chosen, len(used)).astype(np.int64)
    tables = [table_of(each) for each in sums]
    bits = sum(coded_bits(c, t) for c, t in zip(sums, tables, strict=True)) + len(chosen) * np.log2(len(used))
    size = bits / 8 + sum(len(write_table(table)) for table in tables)
    classes = np.zeros(0, np.int64) if axis is None else chosen
    return Plan(tables, axis, classes.astype(np.uint8), size)


def _sums(counts: Counts, chosen: NDArray[np.int64], classes: int) -> Counts:
    """The counts of each class, (classes, 256)."""
    members = chosen == np.arange(classes)[:, None]
    sums: Counts = members.astype(np.float64) @ counts
    return sums


def _entropy(counts: Counts) -> NDArray[np.float64]:
    """Bits a symbol of each row of counts, (rows,)."""
    total = np.maximum(counts.sum(1), 1)
    found: NDArray[np.float64] = np.log2(total) - (counts * np.log2(np.maximum(counts, 1))).sum(1) / total
    return found
