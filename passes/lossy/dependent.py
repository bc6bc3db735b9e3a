"""Dependent quantization: weights rounded along the trellis so that error and bits together cost least.

Two grids of twice the step, interleaved, lie finer than one, and which of them a weight is on costs nothing: it follows
from the weights before. At the same squared error that saves about 0.2 bit a weight (Marcellin and Fischer 1990, IEEE
Trans. Commun. 38(1), table III: 1.33 dB of 1.53 with 256 states). The best walk is found by Viterbi's algorithm.

For weights by themselves. `l2` does not use it: after error compensation, which already trades one weight's error for
another's, the outputs of the solar CNN were no nearer to the network's at the same size.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...compiled import compiled
from ...trellis import FOLLOWING, ODD, ODD_AND_ZERO, Bits, Positions, Steps, grids, positions

FARTHEST = 63
"""The largest k: one-byte indices then reach all multiples, of which LARGEST is the last odd one on either side."""
LARGEST = 2.0 * FARTHEST - 1
SAMPLE, SAMPLE_OF_KINDS = 1 << 15, 1 << 14
"""Weights on which the lengths of codes and the kind of trellis are found."""
ROUNDS = 2
"""How often the lengths of codes are taken anew from the walk found before."""
BLOCK, AHEAD = 1 << 14, 128
"""So many weights are decided at once, after a look at so many behind them: more change nothing that is seen."""
_NEVER = np.inf

Weights = NDArray[np.float64]
Costs = NDArray[np.float64]
"""The cost of each k from -FARTHEST to FARTHEST on each of the two grids, (2, 2 · FARTHEST + 1)."""


SLOPE = 0.32
"""Squared steps that a bit is worth: 0.34 where half a bit for each half of the error holds, with 256 states. A little
less did as well at 3 to 4 bits a weight, and 2 % better than 0.18 at 1.5 (benchmarks/size_peers.py)."""


def walked(weights: Weights, kind: int) -> Positions:
    """The multiples of the step to which weights, in steps, are rounded in row-major order, same shape."""
    flat = weights.reshape(-1)
    steps = best_walk(flat, costs_for(_sample(flat, SAMPLE), kind), kind)
    return positions(steps, kind).reshape(weights.shape)


def kind_for(weights: Weights) -> int:
    """The kind of trellis that does better on a part of weights in steps."""
    return min((ODD, ODD_AND_ZERO), key=lambda kind: _bits_and_error(_sample(weights, SAMPLE_OF_KINDS), kind))


def _sample(weights: Weights, most: int) -> Weights:
    """So many weights at the most, (n,), spread evenly."""
    flat = weights.reshape(-1)
    sample: Weights = flat[np.linspace(0, len(flat) - 1, min(len(flat), most)).astype(np.int64)]
    return sample


def costs_for(weights: Weights, kind: int) -> Costs:
    """What each k costs in squared steps, by how often it is chosen for weights, (n,), in steps."""
    costs = _costs_of(np.round(weights / 2).astype(np.int16), None)
    for _ in range(ROUNDS):
        steps = best_walk(weights, costs, kind)
        costs = _costs_of(steps, grids(steps))
    return costs


def _costs_of(steps: Steps, bits: Bits | None) -> Costs:
    """The costs by how often each k occurs on each grid; on both alike without knowing which."""
    width = 2 * FARTHEST + 1
    places = np.clip(steps, -FARTHEST, FARTHEST).astype(np.int64) + FARTHEST
    chosen = [np.ones(steps.shape, bool)] * 2 if bits is None else [bits == 0, bits == 1]
    counts = np.stack([np.bincount(places[each], minlength=width) for each in chosen]) + 0.02
    found: Costs = -SLOPE * np.log2(counts / counts.sum(1, keepdims=True))
    return found


def _bits_and_error(weights: Weights, kind: int) -> float:
    """Bits that a weight would take at a squared error of 1, half a bit halving the error."""
    costs = costs_for(weights, kind)
    steps = best_walk(weights, costs, kind)
    bits = costs[grids(steps), steps + FARTHEST].mean() / SLOPE
    error = np.square(weights - positions(steps, kind)).mean()
    return float(bits + 0.5 * np.log2(error + 1e-12))


def best_walk(weights: Weights, costs: Costs, kind: int) -> Steps:
    """The k of the walk through weights, (n,), in steps, of the least squared error and cost of each k."""
    if not np.isfinite(weights).all():
        raise ValueError("weights that are NaN or infinite lie on no grid")
    return _best_walk(weights, costs, kind == ODD_AND_ZERO, FOLLOWING)


@compiled
def _best_walk(weights: Weights, costs: Costs, second_zero: bool, following: Bits) -> Steps:
    """second_zero: whether the second grid holds 0."""
    states = len(following)
    # The two states before each one, and the place of the candidate that leads from there.
    before, places = np.empty((2, states), np.uint16), np.empty((2, states), np.uint8)
    known = np.zeros(states, np.int64)
    for state in range(states):
        for odd in range(2):
            after = following[state, odd]
            before[known[after], after], places[known[after], after] = state, 2 * (state & 1) + odd
            known[after] += 1
    found = np.empty(len(weights), np.int16)
    span = min(len(weights), BLOCK + AHEAD)
    came, best_k = np.empty((span, states), np.uint8), np.empty((span, 4), np.int16)
    best, total, fresh = np.empty(4), np.empty(states), np.empty(states)
    first, entered = 0, 0
    while first < len(weights):
        last = min(first + span, len(weights))
        decided = last if last == len(weights) else first + BLOCK
        total[:] = _NEVER
        total[entered] = 0.0
        for i in range(last - first):
            _candidates(weights[first + i], costs, second_zero, best, best_k[i])
            for state in range(states):
                one = total[before[0, state]] + best[places[0, state]]
                other = total[before[1, state]] + best[places[1, state]]
                came[i, state] = other < one
                fresh[state] = min(one, other)
            total, fresh = fresh, total
        state = int(np.argmin(total))
        for i in range(last - first - 1, -1, -1):
            chosen = came[i, state]
            if first + i < decided:
                found[first + i] = best_k[i, places[chosen, state]]
            state = int(before[chosen, state])
            if first + i == decided:
                entered = state
        first = decided
    return found


@compiled
def _candidates(
    weight: float, costs: Costs, second_zero: bool, best: NDArray[np.float64], best_k: Steps
) -> None:
    """The cheapest k, and its cost, for each grid and parity: even and odd k on the first, then on the second one."""
    best[:] = _NEVER
    for grid in range(2):
        back = -grid if second_zero and weight < 0 else grid
        near = int(np.floor((weight + back) / 2))
        near = min(max(near, -FARTHEST), FARTHEST - 1)  # beyond the range the last two are the nearest
        for number in range(-1, 4):
            k = 0 if number == 3 else near + number  # zero is cheap, and may pay from afar
            if abs(k) > FARTHEST:
                continue
            multiple = 2 * k - grid * (int(np.sign(k)) if second_zero else 1)
            cost = (weight - multiple) ** 2 + costs[grid, FARTHEST + k]
            place = 2 * grid + (k & 1)
            if cost < best[place]:
                best[place], best_k[place] = cost, k
