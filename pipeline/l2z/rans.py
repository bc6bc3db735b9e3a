"""The entropy coder: interleaved rANS over integer tables.

Asymmetric numeral systems (Duda 2013, arXiv 1311.2540, section 3.3), range variant, a 32-bit state for each lane and
16-bit words. Symbol i of the file belongs to lane i mod LANES; the lanes share one stream of words. All arithmetic is
on integers: every machine decodes the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ...errors import CompressError
from ...trellis import FOLLOWING
from .kernels import LANES, LOW, PRECISION, Bytes, Coefficients, decode, encode
from .tables import Table


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
        self.place = encode(
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
        self.empty = not payload
        self.states, self.words = np.full(LANES, LOW, np.uint64), np.zeros(0, np.uint16)
        self.read_symbols = self.place = 0
        if payload:
            _require(len(payload) >= 4 * LANES and len(payload) % 2 == 0)
            self.states = np.frombuffer(payload, "<u4", LANES).astype(np.uint64)
            self.words = np.frombuffer(payload, "<u2", offset=4 * LANES).astype(np.uint16)
            _require(bool((self.states >= LOW).all()))

    def read(
        self,
        count: int,
        columns: int,
        groups: Bytes,
        coefficients: Coefficients,
        trellis: int,
        tables: Sequence[Table],
    ) -> tuple[Bytes, float]:
        """A plane of so many symbols, in rows of `columns`, and the bits that they take.

        groups: the group of each context; coefficients: of what was taken from each symbol, which is given back;
        trellis: its kind, with which a group has two tables.
        """
        _require(not self.empty)
        frequencies, starts = _frequencies(tables)
        slots = np.concatenate([np.repeat(np.arange(256, dtype=np.uint8), table) for table in tables])
        symbols, met = np.empty(count, np.uint8), np.zeros(frequencies.shape, np.int64)
        self.place = decode(
            symbols,
            met,
            self.read_symbols,
            columns,
            groups,
            coefficients,
            trellis,
            FOLLOWING,
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
        _require(self.empty == (self.read_symbols == 0))


def _frequencies(tables: Sequence[Table]) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """The frequency of each table's symbols, and the sum of those before it, both (tables, 256)."""
    frequencies = np.stack(tables).astype(np.uint32)
    return frequencies, np.cumsum(frequencies, axis=1, dtype=np.uint32) - frequencies


def _require(fits: bool) -> None:
    if not fits:
        raise CompressError("the coded symbols are damaged")
