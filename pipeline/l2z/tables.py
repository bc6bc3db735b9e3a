"""Frequency tables: from counts to integers that add up to a power of two, and to bytes."""

from __future__ import annotations

from bisect import bisect

import numpy as np
from numpy.typing import NDArray

from ...errors import CompressError
from .kernels import CONTEXTS, TOTAL, Bytes, Coefficients
from .prediction import coefficients_of, read_coefficients

MOST_TABLE = 3 + 255
"""Bytes of the longest table."""
LEVELS = np.array([c if c < 16 else (8 + c % 8) << (c // 8 - 1) for c in range(97)])
"""The frequencies that are told, by their code: whole numbers of at most four bits, and zeros behind them."""
_LEVELS = LEVELS.tolist()
_MIDDLES = ((LEVELS[1:-1] + LEVELS[2:]) / 2).tolist()
ROUNDS = 8

Table = NDArray[np.int64]
"""The frequencies of 256 symbols, which add up to TOTAL; all but one are LEVELS."""


def table_of(counts: NDArray[np.int64]) -> Table:
    """Frequencies in proportion to counts, (256,), at least 1 where a symbol occurs, TOTAL in all: of symbol 0 alone
    where none does. What rounding to LEVELS leaves over goes on from the rarer to the next, and at last to the most
    frequent one.
    """
    if not counts.any():
        return np.where(np.arange(256) == 0, TOTAL, 0)
    *others, most = np.argsort(counts, kind="stable")[-np.count_nonzero(counts) :]
    codes, left = [], 0.0
    for wanted in _in_proportion(counts)[others].tolist():
        left += wanted
        codes.append(1 + bisect(_MIDDLES, left))
        left -= _LEVELS[codes[-1]]
    table = np.zeros(256, np.int64)
    table[others] = LEVELS[codes]
    table[most] = TOTAL - table.sum()
    return table


def _in_proportion(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """What adds up to TOTAL, in proportion to counts where these are not worth less than 1, and 1 where they are."""
    rare = counts == 0
    for _ in range(ROUNDS):
        share = (TOTAL - np.count_nonzero(rare & (counts > 0))) / counts[~rare].sum()
        rare = counts * share < 1
    return np.where(rare, 1.0, counts * share)


def coded_bits(counts: NDArray[np.int64], table: Table) -> float:
    """What symbols that occur so often take with this table."""
    present = counts > 0
    return float((counts[present] * (np.log2(TOTAL) - np.log2(table[present]))).sum())


def write_table(table: Table) -> bytes:
    """The smallest and the largest symbol that occurs, one that has what the others leave, and for each of these how
    far the code of its frequency is from that of the one before, modulo 256."""
    present = np.flatnonzero(table)
    low, high = int(present[0]), int(present[-1])
    untold = np.flatnonzero(~np.isin(table, LEVELS))
    rest = int(untold[0] if len(untold) else table.argmax())
    codes = np.searchsorted(LEVELS, np.delete(table[low : high + 1], rest - low))
    return bytes([low, high, rest]) + np.diff(codes, prepend=0).astype(np.uint8).tobytes()


class TableReader:
    """The cuts, coefficients and tables of one plane after another; CompressError for anything that is none."""

    def __init__(self, content: bytes) -> None:
        self.content, self.place = content, 0

    def cuts(self, count: int) -> Bytes:
        """So many contexts that ascend."""
        found = self._bytes(count)
        _require(bool((np.diff(found.astype(np.int64), prepend=0) > 0).all() and (found < CONTEXTS).all()))
        return found

    def coefficients(self, taps: int) -> Coefficients:
        """Of a plane's predictions."""
        return read_coefficients(self._bytes(coefficients_of(taps)), taps)

    def tables(self, count: int) -> list[Table]:
        """So many tables."""
        return [self._table() for _ in range(count)]

    def close(self) -> None:
        """Nothing may be left over."""
        _require(self.place == len(self.content))

    def _table(self) -> Table:
        low, high, rest = self._bytes(3).tolist()
        _require(low <= rest <= high)
        codes = np.cumsum(self._bytes(high - low), dtype=np.uint8)
        _require(bool((codes < len(LEVELS)).all()))
        table = np.zeros(256, np.int64)
        table[low : high + 1] = np.insert(LEVELS[codes], rest - low, 0)
        table[rest] = TOTAL - table.sum()
        _require(table[low] > 0 and table[rest] > 0 and table[high] > 0)
        return table

    def _bytes(self, count: int) -> Bytes:
        self.place += count
        _require(self.place <= len(self.content))
        return np.frombuffer(self.content, np.uint8, count, self.place - count)


def _require(fits: bool) -> None:
    if not fits:
        raise CompressError("the frequency tables are damaged")
