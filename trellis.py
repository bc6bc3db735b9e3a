"""The trellis of dependent quantization: which of two grids a weight is rounded to follows from those before it.

Weights lie on the whole multiples p of a step. In a state whose last bit is 0 a weight may be any even multiple,
p = 2k, else any odd one or 0, p = 2k - sign(k); only k is stored. Its parity leads to the next state. The states are
those of Ungerboeck's code with 64 of them (1982, IEEE Trans. Inf. Theory 28(1), table I; parity checks 103 and 24,
octal), in trellis-coded quantization (Marcellin and Fischer 1990) with grids as in VVC, whose trellis has 4 or 8.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .compiled import compiled

STATES = 64
FEEDBACK, INPUT = 0o103 >> 1, 0o24 >> 1
"""What the state is XORed with after its shift: where its last bit was 1, and where k is odd."""

Positions = NDArray[np.int16]
Steps = NDArray[np.int16]
Bits = NDArray[np.uint8]


@compiled
def following(state: int, odd: int) -> int:
    """The state after a weight whose k is odd or not."""
    return (state >> 1) ^ (FEEDBACK * (state & 1)) ^ (INPUT * odd)


FOLLOWING: Bits = np.array([[following(state, odd) for odd in range(2)] for state in range(STATES)], np.uint8)
"""The same as a table, (STATES, 2), for compiled loops of other files."""


def positions(steps: Steps, path: int) -> Positions:
    """The multiples p of the k of a matrix, both (rows, columns). path: 0 where each column is walked from the first
    row on, 1 where each row is from its first column; a walk begins in state 0."""
    return 2 * steps - grids(steps, path).astype(np.int16) * np.sign(steps)


@compiled
def grids(steps: Steps, path: int) -> Bits:
    """The last bit of the state in which each weight is met, (rows, columns)."""
    rows, columns = steps.shape
    found = np.empty((rows, columns), np.uint8)
    states = np.zeros(columns if path == 0 else rows, np.uint8)
    for row in range(rows):
        for column in range(columns):
            place = column if path == 0 else row
            found[row, column] = states[place] & 1
            states[place] = following(states[place], steps[row, column] & 1)
    return found


@compiled
def steps_of(multiples: Positions, path: int) -> tuple[Steps, bool]:
    """The inverse of `positions`, and whether there is one: not every multiple can follow on every other."""
    rows, columns = multiples.shape
    found = np.empty((rows, columns), np.int16)
    states = np.zeros(columns if path == 0 else rows, np.uint8)
    possible = True
    for row in range(rows):
        for column in range(columns):
            place = column if path == 0 else row
            p, state = multiples[row, column], states[place]
            k = (p + (state & 1) * np.sign(p)) >> 1
            possible = possible and 2 * k - (state & 1) * np.sign(k) == p
            found[row, column] = k
            states[place] = following(state, k & 1)
    return found, possible
