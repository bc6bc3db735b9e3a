"""Frequency tables: from counts to integers that add up to a power of two, and to bytes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...errors import CompressError
from .kernels import CONTEXTS, TOTAL, Bytes, Coefficients
from .prediction import coefficients_of, read_coefficients

MOST_TABLE = 2 + 256 * 3
"""Bytes of the longest table."""

Table = NDArray[np.int64]
"""The frequencies of 256 symbols, which add up to TOTAL."""


def table_of(counts: NDArray[np.int64]) -> Table:
    """Frequencies in proportion to counts, (256,), at least 1 where a symbol occurs, TOTAL in all: of symbol 0 alone
    where none does.

    What rounding leaves over goes where a unit changes the coded length least or gains most.
    """
    total = int(counts.sum())
    if total == 0:
        return np.where(np.arange(256) == 0, TOTAL, 0)
    present = counts > 0
    table = np.where(present, np.maximum(counts * TOTAL // total, 1), 0)
    while (rest := TOTAL - int(table.sum())) != 0:
        step = 1 if rest > 0 else -1
        movable = present & (table + step >= 1)
        with np.errstate(divide="ignore"):
            change = counts * np.abs(np.log2(np.maximum(table + step, 1) / np.maximum(table, 1)))
        order = np.argsort(-step * np.where(movable, change, -step * np.inf), kind="stable")
        chosen = order[: min(abs(rest), int(movable.sum()))]
        table[chosen] += step
    return table


def coded_bits(counts: NDArray[np.int64], table: Table) -> float:
    """What symbols that occur so often take with this table."""
    present = counts > 0
    return float((counts[present] * (np.log2(TOTAL) - np.log2(table[present]))).sum())


def write_table(table: Table) -> bytes:
    """The smallest and the largest symbol that occurs, and the frequencies between, 7 bits a byte, low ones first."""
    present = np.flatnonzero(table)
    low, high = int(present[0]), int(present[-1])
    parts = bytearray([low, high])
    for frequency in table[low : high + 1].tolist():
        while frequency >= 128:
            parts.append(frequency & 127 | 128)
            frequency >>= 7
        parts.append(frequency)
    return bytes(parts)


class TableReader:
    """The cuts, coefficients and tables of one plane after another; CompressError for anything that is none."""

    def __init__(self, content: bytes) -> None:
        self.content, self.place = content, 0

    def cuts(self, count: int) -> Bytes:
        """So many contexts that ascend."""
        found = np.array([self._byte() for _ in range(count)], np.uint8)
        _require(bool((np.diff(found.astype(np.int64), prepend=0) > 0).all() and (found < CONTEXTS).all()))
        return found

    def coefficients(self, taps: int) -> Coefficients:
        """Of a plane's predictions."""
        found = np.array([self._byte() for _ in range(coefficients_of(taps))], np.uint8)
        return read_coefficients(found, taps)

    def tables(self, count: int) -> list[Table]:
        """So many tables."""
        return [self._table() for _ in range(count)]

    def close(self) -> None:
        """Nothing may be left over."""
        _require(self.place == len(self.content))

    def _table(self) -> Table:
        low, high = self._byte(), self._byte()
        _require(low <= high)
        table = np.zeros(256, np.int64)
        for symbol in range(low, high + 1):
            value, shift, more = 0, 0, True
            while more:
                _require(shift <= 14)
                byte = self._byte()
                value |= (byte & 127) << shift
                shift += 7
                more = byte >= 128
            table[symbol] = value
        _require(int(table.sum()) == TOTAL and table[low] > 0 and table[high] > 0)
        return table

    def _byte(self) -> int:
        _require(self.place < len(self.content))
        self.place += 1
        return self.content[self.place - 1]


def _require(fits: bool) -> None:
    if not fits:
        raise CompressError("the frequency tables are damaged")
