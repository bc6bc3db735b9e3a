"""Frequency tables: from counts to integers that add up to a power of two, and to bytes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...errors import CompressError
from .rans import TOTAL, Table


def table_of(counts: NDArray[np.int64]) -> Table:
    """Frequencies in proportion to counts, (256,), at least 1 where a symbol occurs, TOTAL in all.

    What rounding leaves over goes where a unit changes the coded length least or gains most.
    """
    counts = counts.astype(np.int64)
    total = int(counts.sum())
    present = counts > 0
    table = np.where(present, np.maximum(counts * TOTAL // max(total, 1), 1), 0)
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


def read_tables(content: bytes, count: int) -> list[Table]:
    """Exactly `count` tables; CompressError for anything else."""
    place, tables = 0, []
    for _ in range(count):
        _require(place + 2 <= len(content))
        low, high = content[place], content[place + 1]
        place += 2
        _require(low <= high)
        table = np.zeros(256, np.int64)
        for symbol in range(low, high + 1):
            value, shift = 0, 0
            while True:
                _require(place < len(content) and shift <= 14)
                byte = content[place]
                place += 1
                value |= (byte & 127) << shift
                shift += 7
                if byte < 128:
                    break
            table[symbol] = value
        _require(int(table.sum()) == TOTAL and table[low] > 0 and table[high] > 0)
        tables.append(table)
    _require(place == len(content))
    return tables


def _require(fits: bool) -> None:
    if not fits:
        raise CompressError("the frequency tables are damaged")
