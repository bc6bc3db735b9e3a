"""The entropy coder: interleaved rANS over integer tables, whole rows of symbols at once.

Asymmetric numeral systems (Duda 2013, arXiv 1311.2540, section 3.3), range variant, a 32-bit state for each lane and
16-bit words. Symbol i belongs to lane i mod lanes; the lanes share one stream of words, so a step decodes one symbol
of every lane. All arithmetic is on integers: every machine decodes the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...errors import CompressError

PRECISION = 14
TOTAL = 1 << PRECISION
"""What the frequencies of each table add up to."""
LOW = 1 << 16
"""A state between symbols lies in [LOW, 2^32)."""
SYMBOLS_A_LANE = 2048
"""A lane costs the four bytes of its last state: a hundredth of a bit per symbol or less."""
MOST_LANES = 1 << 14

Bytes = NDArray[np.uint8]
Table = NDArray[np.int64]
"""The frequencies of 256 symbols, which add up to TOTAL."""


@dataclass(frozen=True)
class Stream:
    """Symbols, (n,) of 0 to 255, and for each the number of the table that codes it, (n,)."""

    symbols: Bytes
    tables: NDArray[np.uint16]


def lanes_for(count: int) -> int:
    """How many lanes code so many symbols."""
    return max(1, min(MOST_LANES, count // SYMBOLS_A_LANE))


def encode(stream: Stream, tables: Sequence[Table]) -> bytes:
    """The last states of the lanes, 32 bits each, and the words, 16 bits each, little endian; b"" for no symbols."""
    count = len(stream.symbols)
    if count == 0:
        return b""
    lanes = lanes_for(count)
    frequencies, starts = _frequencies(tables)
    states = np.full(lanes, LOW, np.uint64)
    words: list[NDArray[np.uint16]] = []
    for first in range((count - 1) // lanes * lanes, -1, -lanes):
        chosen = stream.tables[first : first + lanes], stream.symbols[first : first + lanes]
        state, frequency = states[: len(chosen[0])], frequencies[chosen]
        full = state >= frequency << np.uint64(32 - PRECISION)
        words.append(state[full].astype(np.uint16))
        state = np.where(full, state >> np.uint64(16), state)
        quotient, rest = np.divmod(state, frequency)
        states[: len(state)] = (quotient << np.uint64(PRECISION)) + rest + starts[chosen]
    return states.astype("<u4").tobytes() + np.concatenate(words[::-1]).astype("<u2").tobytes()


def decode(coded: bytes, choose: NDArray[np.uint16], tables: Sequence[Table]) -> Bytes:
    """The symbols that `encode` wrote, `choose` telling the table of each; CompressError unless all fits exactly."""
    count = len(choose)
    if count == 0:
        _require(not coded)
        return np.zeros(0, np.uint8)
    lanes = lanes_for(count)
    _require(len(coded) >= 4 * lanes and len(coded) % 2 == 0)
    states = np.frombuffer(coded, "<u4", lanes).astype(np.uint64)
    _require(bool((states >= LOW).all()))
    words = np.frombuffer(coded, "<u2", offset=4 * lanes)
    frequencies, starts = _frequencies(tables)
    slots = np.concatenate([np.repeat(np.arange(256, dtype=np.uint8), table) for table in tables])
    symbols = np.empty(count, np.uint8)
    place = 0
    for first in range(0, count, lanes):
        chosen = choose[first : first + lanes].astype(np.int64)
        state = states[: len(chosen)]
        low = state & np.uint64(TOTAL - 1)
        symbol = slots[(chosen << PRECISION) | low.astype(np.int64)]
        symbols[first : first + lanes] = symbol
        state = (state >> np.uint64(PRECISION)) * frequencies[chosen, symbol] + low - starts[chosen, symbol]
        empty = np.flatnonzero(state < LOW)
        fresh = words[place : place + len(empty)]
        _require(len(fresh) == len(empty))
        state[empty] = (state[empty] << np.uint64(16)) | fresh
        place += len(empty)
        states[: len(state)] = state
    _require(place == len(words) and bool((states == LOW).all()))
    return symbols


def _frequencies(tables: Sequence[Table]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """The frequency of each table's symbols, and the sum of those before it, both (tables, 256)."""
    frequencies = np.stack(tables).astype(np.uint64)
    return frequencies, np.cumsum(frequencies, axis=1) - frequencies


def _require(fits: bool) -> None:
    if not fits:
        raise CompressError("the coded symbols are damaged")
