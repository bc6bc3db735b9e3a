"""The entropy coder: interleaved rANS over integer tables.

Asymmetric numeral systems (Duda 2013, arXiv 1311.2540, section 3.3), range variant, a 32-bit state for each lane and
16-bit words. Symbol i of the file belongs to lane i mod LANES; the lanes share one stream of words. All arithmetic is
on integers: every machine decodes the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ...compiled import compiled
from ...errors import CompressError
from ...trellis import following
from .contexts import START, after, context, size_of
from .tables import PRECISION, TOTAL, Bytes, Table

LOW = 1 << 16
"""A state between symbols lies in [LOW, 2^32)."""
LANES = 4


class Writer:
    """Codes planes of symbols, the last one first: what is coded last is decoded first."""

    def __init__(self, count: int) -> None:
        """count: symbols of all planes together."""
        self.states = np.full(LANES, LOW, np.uint64)
        self.words = np.empty(count, np.uint16)
        self.left = count
        self.place = count

    def write(self, symbols: Bytes, chosen: Bytes, tables: Sequence[Table]) -> None:
        """Code a plane, (n,); chosen: the number of the table of each symbol, (n,)."""
        self.left -= len(symbols)
        frequencies, starts = _frequencies(tables)
        self.place = _encode(
            symbols, chosen, self.left, frequencies, starts, self.states, self.words, self.place
        )

    def payload(self) -> bytes:
        """The last states of the lanes, 32 bits each, and the words, 16 bits each, little endian; empty without any."""
        if not len(self.words):
            return b""
        return self.states.astype("<u4").tobytes() + self.words[self.place :].astype("<u2").tobytes()


class Reader:
    """Decodes the planes that a Writer coded, the first one first; CompressError unless all fits exactly."""

    def __init__(self, payload: bytes) -> None:
        self.states, self.words = np.full(LANES, LOW, np.uint64), np.zeros(0, np.uint16)
        self.read_symbols = self.place = 0
        if payload:
            _require(len(payload) >= 4 * LANES and len(payload) % 2 == 0)
            self.states = np.frombuffer(payload, "<u4", LANES).astype(np.uint64)
            self.words = np.frombuffer(payload, "<u2", offset=4 * LANES).astype(np.uint16)
            _require(bool((self.states >= LOW).all()))

    def read(
        self, count: int, columns: int, groups: Bytes, path: int | None, tables: Sequence[Table]
    ) -> tuple[Bytes, float]:
        """A plane of so many symbols, in rows of `columns`, and the bits that they take.

        groups: the group of each context; path: that of a trellis, with which a group has two tables.
        """
        frequencies, starts = _frequencies(tables)
        slots = np.concatenate([np.repeat(np.arange(256, dtype=np.uint8), table) for table in tables])
        symbols, met = np.empty(count, np.uint8), np.zeros(frequencies.shape, np.int64)
        self.place = _decode(
            symbols,
            met,
            self.read_symbols,
            columns,
            groups,
            -1 if path is None else path,
            frequencies,
            starts,
            slots,
            self.states,
            self.words,
            self.place,
        )
        self.read_symbols += count
        _require(self.place >= 0)
        bits = met * (PRECISION - np.log2(np.maximum(frequencies, 1)))
        return symbols, float(bits.sum())

    def close(self) -> None:
        """Nothing may be left over."""
        _require(self.place == len(self.words) and bool((self.states == LOW).all()))


@compiled
def _encode(
    symbols: Bytes,
    chosen: Bytes,
    first: int,
    frequencies: NDArray[np.uint32],
    starts: NDArray[np.uint32],
    states: NDArray[np.uint64],
    words: NDArray[np.uint16],
    place: int,
) -> int:
    """The place of the last word written; words are written from the end of their array."""
    for i in range(len(symbols) - 1, -1, -1):
        lane = (first + i) % LANES
        state = np.uint32(states[lane])
        frequency = frequencies[chosen[i], symbols[i]]
        if state >> np.uint32(32 - PRECISION) >= frequency:
            place -= 1
            words[place] = state & np.uint32(0xFFFF)
            state >>= np.uint32(16)
        quotient = state // frequency
        rest = state - quotient * frequency
        states[lane] = (quotient << np.uint32(PRECISION)) + rest + starts[chosen[i], symbols[i]]
    return place


@compiled
def _decode(
    symbols: Bytes,
    met: NDArray[np.int64],
    first: int,
    columns: int,
    groups: Bytes,
    path: int,
    frequencies: NDArray[np.uint32],
    starts: NDArray[np.uint32],
    slots: Bytes,
    states: NDArray[np.uint64],
    words: NDArray[np.uint16],
    place: int,
) -> int:
    """The place of the next word, -1 where words are missing. met: counts how often each table codes each symbol."""
    of_columns = np.full(columns, START, np.uint32)
    of_row = np.uint32(START)
    walks = np.zeros(columns if path == 0 else 1, np.uint8)
    for i in range(len(symbols)):
        row, column = divmod(i, columns)
        table = int(groups[context(of_row, of_columns[column])])
        walk = column if path == 0 else 0
        if path == 1 and column == 0:
            walks[0] = 0
        if path >= 0:
            table = 2 * table + (walks[walk] & 1)
        lane = (first + i) % LANES
        state = np.uint32(states[lane])
        low = state & np.uint32(TOTAL - 1)
        symbol = slots[(table << PRECISION) | low]
        state = (state >> np.uint32(PRECISION)) * frequencies[table, symbol] + low - starts[table, symbol]
        if state < LOW:
            if place >= len(words):
                return -1
            state = (state << np.uint32(16)) | np.uint32(words[place])
            place += 1
        states[lane] = state
        symbols[i] = symbol
        met[table, symbol] += 1
        if path >= 0:
            walks[walk] = following(walks[walk], symbol & 1)
        size = size_of(symbol)
        of_row = after(of_row, size, column)
        of_columns[column] = after(of_columns[column], size, row)
    return place


def _frequencies(tables: Sequence[Table]) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """The frequency of each table's symbols, and the sum of those before it, both (tables, 256)."""
    frequencies = np.stack(tables).astype(np.uint32)
    return frequencies, np.cumsum(frequencies, axis=1, dtype=np.uint32) - frequencies


def _require(fits: bool) -> None:
    if not fits:
        raise CompressError("the coded symbols are damaged")
