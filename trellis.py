"""The trellis of dependent quantization: which of two grids a weight is rounded to follows from those before it.

Weights lie on the whole multiples p of a step. In a state whose last bit is 0 a weight may be any even multiple,
p = 2k. Else it may be any odd one, p = 2k - 1, or in trellises of the other kind any odd one or 0, p = 2k - sign(k),
which is better where many weights are 0. Only k is stored. Its parity leads to the next state. A walk goes through all
weights of a tensor in row-major order, from state 0 on.

The states are those of Ungerboeck's code with 256 of them (1982, IEEE Trans. Inf. Theory 28(1), table I; parity checks
515 and 362, octal), in trellis-coded quantization (Marcellin and Fischer 1990, IEEE Trans. Commun. 38(1)); grids that
both hold 0 are those of VVC, whose trellis has 4 or 8 states.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .compiled import compiled

STATES = 256
FEEDBACK, INPUT = 0o515 >> 1, 0o362 >> 1
"""What the state is XORed with after its shift: where its last bit was 1, and where k is odd."""
NONE, ODD, ODD_AND_ZERO = 0, 1, 2
"""Kinds of trellis, by what the second grid holds; no trellis."""

Positions = NDArray[np.int16]
Steps = NDArray[np.int16]
Bits = NDArray[np.uint8]


def _following(state: int, odd: int) -> int:
    """The state after a weight whose k is odd or not."""
    return (state >> 1) ^ (FEEDBACK * (state & 1)) ^ (INPUT * odd)


# Not by the compiled one: numba takes half a second for its first call, which many who import this do not make.
FOLLOWING: Bits = np.array(
    [[_following(state, odd) for odd in range(2)] for state in range(STATES)], np.uint8
)
"""The same as a table, (STATES, 2), for compiled loops of other files."""
following = compiled(_following)


def positions(steps: Steps, kind: int) -> Positions:
    """The multiples p of the k of a walk, both (n,)."""
    back = np.sign(steps) if kind == ODD_AND_ZERO else np.int16(1)
    return 2 * steps - grids(steps) * back


@compiled
def grids(steps: Steps) -> Bits:
    """The last bit of the state that each weight of a walk, (n,), is met in: of k, or of what is as even or odd."""
    found = np.empty(len(steps), np.uint8)
    state = 0
    for i in range(len(steps)):
        found[i] = state & 1
        state = following(state, int(steps[i]) & 1)
    return found


@compiled
def steps_of(multiples: Positions, kind: int) -> tuple[Steps, bool]:
    """The inverse of `positions`, and whether there is one: not every multiple can follow on every other."""
    found = np.empty(len(multiples), np.int16)
    state, possible = 0, True
    for i in range(len(multiples)):
        p, grid = int(multiples[i]), state & 1
        k = (p + grid * (1 if kind == ODD else int(np.sign(p)))) >> 1
        possible = possible and 2 * k - grid * (1 if kind == ODD else int(np.sign(k))) == p
        found[i] = k
        state = following(state, k & 1)
    return found, possible
