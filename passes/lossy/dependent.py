"""Dependent quantization: weights rounded along the trellis so that error and bits together cost least.

Two grids of twice the step, interleaved, lie finer than one, and which of them a weight is on costs nothing: it follows
from the weights before. At the same squared error that saves about 0.2 bit a weight (Marcellin and Fischer 1990, IEEE
Trans. Commun. 38(1), table III: 1.28 dB of 1.53 with 64 states). The best walk is found by Viterbi's algorithm.

For weights by themselves. `l2` does not use it: after error compensation, which already trades one weight's error for
another's, the outputs of the solar CNN were no nearer to the network's at the same size.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...compiled import compiled
from ...trellis import FOLLOWING, Bits, Positions, Steps, grids, positions

FARTHEST = 63
"""The largest k: one-byte indices then reach all multiples, which end at LARGEST."""
LARGEST = 2.0 * FARTHEST - 1
ROUNDS = 2
"""How often the lengths of codes are taken anew from the walk found before."""
_NEVER = np.inf

Costs = NDArray[np.float64]
"""Of each k from -FARTHEST to FARTHEST on each of the two grids, (2, 2 · FARTHEST + 1)."""


SLOPE = 0.25
"""Squared steps that a bit is worth. At the best rate of a grid of twice the step it is 0.34 with 64 states; less, with
a coarser step, was smaller at the same error from 1 to 4 bits a weight (benchmarks/size_peers.py)."""


def walked(matrix: NDArray[np.float64]) -> Positions:
    """The multiples of the step to which weights, (rows, columns), in steps, are rounded down each column."""
    return positions(best_walk(matrix, costs_for(matrix)), 0)


def costs_for(matrix: NDArray[np.float64]) -> Costs:
    """What each k costs in squared steps, by how often it is chosen for a matrix, in steps."""
    costs = _costs_of(np.round(matrix / 2).astype(np.int16), None)
    for _ in range(ROUNDS):
        steps = best_walk(matrix, costs)
        costs = _costs_of(steps, grids(steps, 0))
    return costs


def _costs_of(steps: Steps, bits: Bits | None) -> Costs:
    """By how often each k occurs on each grid; on both alike without knowing which."""
    width = 2 * FARTHEST + 1
    places = np.clip(steps, -FARTHEST, FARTHEST).astype(np.int64) + FARTHEST
    chosen = [np.ones(steps.shape, bool)] * 2 if bits is None else [bits == 0, bits == 1]
    counts = np.stack([np.bincount(places[each], minlength=width) for each in chosen]) + 0.02
    found: Costs = -SLOPE * np.log2(counts / counts.sum(1, keepdims=True))
    return found


def best_walk(weights: NDArray[np.float64], costs: Costs) -> Steps:
    """The k of the walks down the columns of a matrix, in steps, of the least squared error and cost of each k."""
    if not np.isfinite(weights).all():
        raise ValueError("weights that are NaN or infinite lie on no grid")
    return _best_walk(weights, costs, FOLLOWING)


@compiled
def _best_walk(weights: NDArray[np.float64], costs: Costs, following: Bits) -> Steps:
    rows, columns = weights.shape
    states = len(following)
    before, odd_before = np.empty((states, 2), np.int64), np.empty((states, 2), np.int64)
    known = np.zeros(states, np.int64)
    for state in range(states):
        for odd in range(2):
            after = following[state, odd]
            before[after, known[after]], odd_before[after, known[after]] = state, odd
            known[after] += 1
    found = np.empty((rows, columns), np.int16)
    came = np.empty((rows, states), np.uint8)
    best_k = np.empty((rows, 4), np.int16)
    best = np.empty(4)
    total, fresh = np.empty(states), np.empty(states)
    for column in range(columns):
        total[:] = _NEVER
        total[0] = 0.0
        for row in range(rows):
            _candidates(weights[row, column], costs, best, best_k[row])
            for state in range(states):
                one, other = before[state, 0], before[state, 1]
                first = total[one] + best[2 * (one & 1) + odd_before[state, 0]]
                second = total[other] + best[2 * (other & 1) + odd_before[state, 1]]
                came[row, state] = second < first
                fresh[state] = min(first, second)
            total, fresh = fresh, total
        state = int(np.argmin(total))
        for row in range(rows - 1, -1, -1):
            chosen = came[row, state]
            earlier = before[state, chosen]
            found[row, column] = best_k[row, 2 * (earlier & 1) + odd_before[state, chosen]]
            state = earlier
    return found


@compiled
def _candidates(weight: float, costs: Costs, best: NDArray[np.float64], best_k: Steps) -> None:
    """The cheapest k, and its cost, for each grid and parity: even and odd k on the first, then on the second one."""
    best[:] = _NEVER
    size, sign = abs(weight), 1 if weight >= 0 else -1
    for grid in range(2):
        near = min(int((size + grid) / 2), FARTHEST - 1)  # beyond the range the last two are the nearest
        for number in range(-1, 3):
            k = 0 if number == 2 else near + number  # zero is cheap, and may pay from afar
            if k < 0 or k > FARTHEST:
                continue
            multiple = 2 * k - (grid if k else 0)
            cost = (size - multiple) ** 2 + costs[grid, FARTHEST + sign * k]
            place = 2 * grid + (k & 1)
            if cost < best[place]:
                best[place], best_k[place] = cost, sign * k
