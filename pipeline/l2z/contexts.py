"""Contexts of symbols: what the row and the column of a weight were like so far tells what it will be like.

Weights of one tensor differ in size from output channel to output channel, and from input channel to input channel.
A symbol's size is its distance from CENTRE. Running averages of the sizes met so far in the symbol's row
and column, their logarithms added, are its context; contexts next to each other form groups, each with a table.
Nothing is told of rows and columns: a reader has seen what the writer had.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...compiled import compiled
from ...trellis import NONE as NO_TRELLIS
from ...trellis import grids as grids_of
from .kernels import CONTEXTS, Bytes, Coefficients, contexts, products, unpredicted
from .prediction import NONE, coefficients_for, write_coefficients
from .tables import Table, coded_bits, table_of, write_table

ALIKE = 7.95
"""Bits a symbol from which on coding is not worth the while."""
TABLE_BITS = 7.0
"""What a symbol of a table takes, about."""
MOST_TRIED = 6.5
"""Bits a symbol from which on contexts are looked for in a part of a plane first."""
PART = 1 << 15
"""Symbols of a large plane on which contexts are tried first; one of up to twice as many is planned at once."""
LEAST_GAIN = 0.003
_COUNTS = np.arange(4096)
_N_LOG_N = _COUNTS * np.log2(np.maximum(_COUNTS, 1))


@dataclass(frozen=True)
class Plan:
    """How a plane is coded. symbols: what of it is coded, less what is predicted with the coefficients; groups: of each
    context, (CONTEXTS,); chosen: the table of each symbol; tables: one for each group, or two where the plane is one of
    a trellis; written: coefficients and tables as bytes; size: bytes in all, by estimate."""

    symbols: Bytes
    coefficients: Coefficients
    groups: Bytes
    chosen: Bytes
    tables: list[Table]
    written: bytes
    size: float


def plan(symbols: Bytes, columns: int, taps: int = 0, trellis: int = NO_TRELLIS) -> Plan | None:
    """The smallest plan that was found for a plane, (n,), turned to be about CENTRE, in rows of `columns`; None where
    all symbols are about as frequent.

    taps: how many neighbours in a row are a kernel, in which those before may tell the next one; 0 for none. trellis:
    its kind; the state that a symbol is met in then chooses between two tables of its group.
    """
    grids = grids_of(symbols.astype(np.int16)) if trellis else np.zeros(len(symbols), np.uint8)
    plain = _plan(symbols, columns, trellis, grids, NONE)
    coefficients = coefficients_for(products(symbols, taps, trellis, grids), len(symbols)) if taps else None
    if coefficients is None:
        return plain
    left = _plan(unpredicted(symbols, coefficients, trellis, grids), columns, trellis, grids, coefficients)
    return min((found for found in (plain, left) if found is not None), key=lambda p: p.size, default=None)


def _plan(
    symbols: Bytes, columns: int, trellis: int, grids: Bytes, coefficients: Coefficients
) -> Plan | None:
    """The plan for what is left of a plane after its predictions; None as in `plan`."""
    each = 2 if trellis else 1
    own = _entropy(histogram(symbols))
    if not len(symbols) or own > ALIKE:
        return None
    found = np.zeros(len(symbols), np.uint8)
    groups = np.zeros(CONTEXTS, np.uint8)
    if own < MOST_TRIED or len(symbols) <= 2 * PART or _promising(symbols[:PART], columns):
        found = contexts(symbols, columns)
        groups = grouped(_counts(symbols, found, grids, CONTEXTS, each), TABLE_BITS)
    chosen = _chosen(found, groups, grids, each)
    number = each * (int(groups.max()) + 1)
    counts = _counts(symbols, chosen, grids, number, 1)[:, 0]
    tables = [table_of(row) for row in counts]
    bits = sum(coded_bits(c, t) for c, t in zip(counts, tables, strict=True))
    written = write_coefficients(coefficients) + b"".join(write_table(table) for table in tables)
    return Plan(symbols, coefficients, groups, chosen, tables, written, bits / 8 + len(written))


@compiled
def histogram(symbols: Bytes) -> NDArray[np.int64]:
    """How often each of 256 symbols occurs."""
    counts = np.zeros(256, np.int64)
    for symbol in symbols:
        counts[symbol] += 1
    return counts


def cuts_of(groups: Bytes) -> list[int]:
    """The first context of each group but the first."""
    return [int(place) + 1 for place in np.flatnonzero(np.diff(groups.astype(np.int64)))]


def groups_of(cuts: Bytes) -> Bytes:
    """The inverse of `cuts_of`, for cuts that ascend."""
    return np.searchsorted(cuts, np.arange(CONTEXTS), side="right").astype(np.uint8)


def _promising(symbols: Bytes, columns: int) -> bool:
    """Whether contexts help in the first part of a plane."""
    found = contexts(symbols, min(columns, len(symbols)))
    groups = grouped(_counts(symbols, found, found, CONTEXTS, 1), TABLE_BITS)
    merged = _counts(symbols, groups[found], found, int(groups.max()) + 1, 1)
    own = sum(_entropy(each) * each.sum() for each in merged[:, 0])
    together = merged.sum((0, 1))
    return bool(own < (1 - LEAST_GAIN) * _entropy(together) * together.sum())


@compiled
def grouped(counts: NDArray[np.int64], table_bits: float) -> Bytes:
    """The group of each context: neighbours are merged, the pair that gains most first, as long as one table less
    saves more than it costs. counts: (contexts, tables of a group, 256)."""
    number = len(counts)
    sums = counts.copy()
    none = np.zeros(sums.shape[1:], np.int64)
    ends = np.arange(1, number + 1)  # of the group that begins with a context, 0 for none
    costs = np.empty(number)
    joined = np.full(number, np.inf)  # what merging a group with the next one costs
    for at in range(number):
        costs[at] = _cost(sums[at], none, table_bits)
    for at in range(number - 1):
        joined[at] = _cost(sums[at], sums[at + 1], table_bits) - costs[at] - costs[at + 1]
    while True:
        best = 0
        for at in range(number):
            if joined[at] < joined[best]:
                best = at
        if joined[best] > 0 or joined[best] == np.inf:
            break
        other = ends[best]
        sums[best] += sums[other]
        ends[best] = ends[other]
        ends[other], joined[other] = 0, np.inf
        costs[best] = _cost(sums[best], none, table_bits)
        before = best - 1
        while before >= 0 and ends[before] == 0:
            before -= 1
        if before >= 0:
            joined[before] = _cost(sums[before], sums[best], table_bits) - costs[before] - costs[best]
        after = ends[best]
        joined[best] = np.inf
        if after < number:
            joined[best] = _cost(sums[best], sums[after], table_bits) - costs[best] - costs[after]
    groups = np.zeros(number, np.uint8)
    group, end = -1, 0
    for at in range(number):
        if at == end:
            group += 1
            end = ends[at]
        groups[at] = group
    return groups


@compiled
def _cost(one: NDArray[np.int64], other: NDArray[np.int64], table_bits: float) -> float:
    """Bits of two groups' symbols with one table, and of the table; both (tables of a group, 256)."""
    bits = 0.0
    for table in range(one.shape[0]):
        total = 0
        for symbol in range(one.shape[1]):
            count = one[table, symbol] + other[table, symbol]
            if count > 0:
                total += count
                bits += table_bits - _n_log_n(count)
        if total > 0:
            bits += _n_log_n(total) + 2 * table_bits
    return bits


@compiled
def _n_log_n(count: int) -> float:
    """count · log2(count), of a count above 0; small ones, which are most, from a table."""
    return float(_N_LOG_N[count]) if count < len(_N_LOG_N) else count * np.log2(count)


@compiled
def _chosen(found: Bytes, groups: Bytes, grids: Bytes, each: int) -> Bytes:
    """The table of each symbol, of its context's group and its grid."""
    chosen = np.empty(len(found), np.uint8)
    for i in range(len(found)):
        chosen[i] = each * groups[found[i]]
        if each == 2:
            chosen[i] += grids[i]
    return chosen


@compiled
def _counts(symbols: Bytes, found: Bytes, grids: Bytes, number: int, each: int) -> NDArray[np.int64]:
    """How often each symbol occurs in each context, (number, each, 256); grids: with two tables each, which one."""
    counts = np.zeros((number, each, 256), np.int64)
    for i in range(len(symbols)):
        counts[found[i], grids[i] if each == 2 else 0, symbols[i]] += 1
    return counts


def _entropy(counts: NDArray[np.int64]) -> float:
    """Bits a symbol."""
    present = counts[counts > 0].astype(np.float64)
    return float(-(present * np.log2(present / present.sum())).sum() / max(1.0, present.sum()))
