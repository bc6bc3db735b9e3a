"""Frequency tables: from counts to integers that add up to a power of two, and to bytes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...compiled import compiled
from ...errors import CompressError
from .kernels import CONTEXTS, TOTAL, Bytes, Coefficients
from .prediction import coefficients_of, read_coefficients

MOST_TABLE = 3 + 255
"""Bytes of the longest table."""
LEVELS = np.array([c if c < 16 else (8 + c % 8) << (c // 8 - 1) for c in range(96)])
"""The frequencies that are told, by their code: whole numbers of at most four bits, and zeros behind them."""
_NO_CODE = 255
_CODES = np.full(TOTAL + 1, _NO_CODE, np.uint8)
_CODES[LEVELS] = np.arange(len(LEVELS))
_MIDDLES = (LEVELS[1:-1] + LEVELS[2:]) / 2

Table = NDArray[np.int64]
"""The frequencies of 256 symbols, which add up to TOTAL; all but one are LEVELS."""


def table_of(counts: NDArray[np.int64]) -> Table:
    """Frequencies in proportion to counts, (256,), at least 1 where a symbol occurs, TOTAL in all: of symbol 0 alone
    where none does. What rounding to LEVELS leaves over goes on from the rarer to the next, and at last to the most
    frequent one.
    """
    if not counts.any():
        return np.where(np.arange(256) == 0, TOTAL, 0)
    occurring = np.argsort(counts, kind="stable")[-np.count_nonzero(counts) :]
    return _rounded(counts, occurring, LEVELS, _MIDDLES, TOTAL)


@compiled
def _rounded(
    counts: Table, occurring: Table, levels: Table, middles: NDArray[np.float64], total: int
) -> Table:
    """occurring: the symbols that do, the rarest first; middles: between levels from 1 on."""
    rare, mass = 0, counts.sum()
    # In proportion to those that are left it is worth less than 1.
    while counts[occurring[rare]] * (total - rare) < mass:
        mass -= counts[occurring[rare]]
        rare += 1
    table = np.zeros(256, np.int64)
    left, rest = 0.0, total
    for place, symbol in enumerate(occurring[:-1]):
        left += 1.0 if place < rare else counts[symbol] * (total - rare) / mass
        table[symbol] = levels[1 + np.searchsorted(middles, left, side="right")]
        left -= table[symbol]
        rest -= table[symbol]
    table[occurring[-1]] = rest
    return table


def coded_bits(counts: NDArray[np.int64], table: Table) -> float:
    """What symbols that occur so often take with this table."""
    present = counts > 0
    return float((counts[present] * (np.log2(TOTAL) - np.log2(table[present]))).sum())


def write_table(table: Table) -> bytes:
    """The smallest and the largest symbol that occurs, one that has what the others leave, and for each of these how
    far the code of its frequency is from that of the one before, modulo 256."""
    present = np.flatnonzero(table)
    low, high = int(present[0]), int(present[-1])
    codes = _CODES[table]
    untold = np.flatnonzero(codes == _NO_CODE)
    assert len(untold) <= 1, "all frequencies but one are LEVELS"
    rest = int(untold[0] if len(untold) else table.argmax())
    told = np.concatenate([codes[low:rest], codes[rest + 1 : high + 1]])
    return bytes([low, high, rest]) + np.diff(told, prepend=np.uint8(0)).tobytes()


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
        """The coefficients of a plane's predictions."""
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
