"""The loops over symbols, compiled: contexts, coding and decoding, and the numbers that they are made with.

All in one file: what the compiler keeps on disk is made anew when the file changes in which a loop stands, and only
then, so that a loop must not take functions or numbers from another one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...compiled import compiled

PRECISION = 14
TOTAL = 1 << PRECISION
"""What the frequencies of each table add up to."""
LOW = 1 << 16
"""A state between symbols lies in [LOW, 2^32)."""
LANES = 4
CENTRE = 128
"""The symbol that planes are turned to have as their most frequent one, or as their zero."""
START = 1 << 15
"""Start of an average, in which a size of 1 counts 2^16: half a step."""
SLOWEST = 7
"""An average that has seen n sizes moves by 2^-(1 + ⌊log2(n + 1)⌋) towards the next, and by 2^-7 at the least."""
CONTEXTS = 2 * 2 * 24
"""Averages are below 2^24: half-octaves of two of them."""
UNIT = 16
"""What the coefficients of predictions are divided by."""
ODD = 1
"""The kind of trellis whose second grid holds odd multiples; that with 0 among them is 2, and 0 is none."""

Bytes = NDArray[np.uint8]
Coefficients = NDArray[np.int8]
"""(taps, taps): of the taps before, (columns), in the prediction of each tap, (rows); zero elsewhere."""


@compiled
def half_octaves(average: np.uint32) -> np.uint32:
    """⌊2 log2⌋ of a whole number from 1 to 2^24, but for √2 taken as 3/2: from the bits of a float32."""
    return (np.float32(average).view(np.uint32) >> np.uint32(22)) - np.uint32(254)


@compiled
def context(of_row: np.uint32, of_column: np.uint32) -> np.uint32:
    """The context, 0 to CONTEXTS - 1, for the averages of a symbol's row and column."""
    return half_octaves(of_row) + half_octaves(of_column)


@compiled
def after(average: np.uint32, size: np.uint32, seen: int) -> np.uint32:
    """An average that has seen so many sizes, when it has seen one more, of 0 to 128."""
    shift = np.uint32(1) + (half_octaves(np.uint32(seen + 1)) >> np.uint32(1))
    shift = min(shift, np.uint32(SLOWEST))
    return np.uint32(average - (average >> shift) + (size << (np.uint32(16) - shift)))


@compiled
def size_of(symbol: np.uint8) -> np.uint32:
    """The size of a symbol, 0 to 128."""
    return np.uint32(abs(np.int32(symbol) - CENTRE))


@compiled
def contexts(symbols: Bytes, columns: int) -> Bytes:
    """The context of each symbol of a plane, (n,), in rows of `columns`."""
    found = np.empty(len(symbols), np.uint8)
    of_columns = np.full(columns, START, np.uint32)
    of_row = np.uint32(START)
    for i in range(len(symbols)):
        row, column = divmod(i, columns)
        found[i] = context(of_row, of_columns[column])
        size = size_of(symbols[i])
        of_row = after(of_row, size, column)
        of_columns[column] = after(of_columns[column], size, row)
    return found


@compiled
def number_of(symbol: np.int64, trellis: int, grid: np.int64) -> np.int64:
    """What a symbol counts as in predictions: its distance from CENTRE, in a trellis its multiple.

    trellis: its kind; grid: the last bit of its state.
    """
    steps = symbol - CENTRE
    if trellis == 0:
        return steps
    return 2 * steps - grid * (np.int64(1) if trellis == ODD else np.sign(steps))


@compiled
def predicted(
    numbers: NDArray[np.int64], coefficients: Coefficients, tap: int, trellis: int, grid: np.int64
) -> np.int64:
    """How far from CENTRE a symbol is expected, after the numbers of the taps before its own: the nearest one."""
    total = np.int64(0)
    for before in range(tap):
        total += np.int64(coefficients[tap, before]) * numbers[before]
    if trellis == ODD:
        return (total + UNIT * (1 + grid) - 1) // (2 * UNIT)
    size = abs(total)
    if size < UNIT // 2:
        return np.int64(0)
    steps = (size + UNIT * (1 + grid)) // (2 * UNIT) if trellis else (size + UNIT // 2) // UNIT
    return steps if total > 0 else -steps


@compiled
def products(symbols: Bytes, taps: int, trellis: int, grids: Bytes) -> NDArray[np.int64]:
    """Products of each two taps' numbers, summed over all kernels of a plane, (taps, taps); grids: of each symbol."""
    numbers = np.zeros(taps, np.int64)
    found = np.zeros((taps, taps), np.int64)
    for i in range(len(symbols)):
        tap = i % taps
        numbers[tap] = number_of(np.int64(symbols[i]), trellis, np.int64(grids[i]))
        for before in range(tap + 1):
            found[tap, before] += numbers[tap] * numbers[before]
    for tap in range(taps):
        found[:tap, tap] = found[tap, :tap]
    return found


@compiled
def unpredicted(symbols: Bytes, coefficients: Coefficients, trellis: int, grids: Bytes) -> Bytes:
    """The symbols of a plane, (n,), less what is predicted of each, modulo 256; grids: of each."""
    taps = len(coefficients)
    numbers = np.zeros(taps, np.int64)
    found = np.empty(len(symbols), np.uint8)
    for i in range(len(symbols)):
        tap, symbol, grid = i % taps, np.int64(symbols[i]), np.int64(grids[i])
        found[i] = (symbol - predicted(numbers, coefficients, tap, trellis, grid)) & 255
        numbers[tap] = number_of(symbol, trellis, grid)
    return found


@compiled
def encode(
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
def decode(
    symbols: Bytes,
    met: NDArray[np.int64],
    first: int,
    columns: int,
    groups: Bytes,
    coefficients: Coefficients,
    trellis: int,
    following: Bytes,
    frequencies: NDArray[np.uint32],
    starts: NDArray[np.uint32],
    slots: Bytes,
    states: NDArray[np.uint64],
    words: NDArray[np.uint16],
    place: int,
) -> int:
    """The place of the next word, -1 where words are missing. met: counts how often each table codes each symbol;
    following: the state of the trellis after each one, and an even or odd symbol, (states, 2)."""
    taps = len(coefficients)
    numbers = np.zeros(taps, np.int64)
    grid, walk = np.int64(0), np.uint8(0)
    of_columns = np.full(columns, START, np.uint32)
    of_row = np.uint32(START)
    for i in range(len(symbols)):
        row, column = divmod(i, columns)
        table = int(groups[context(of_row, of_columns[column])])
        if trellis:
            grid = np.int64(walk & 1)
            table = 2 * table + int(grid)
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
        if taps > 0:
            tap = column % taps
            whole = (symbol + predicted(numbers, coefficients, tap, trellis, grid)) & 255
            numbers[tap] = number_of(whole, trellis, grid)
            symbols[i] = whole
        if trellis:
            walk = following[walk, symbols[i] & 1]
        size = size_of(symbol)
        of_row = after(of_row, size, column)
        of_columns[column] = after(of_columns[column], size, row)
    return place
