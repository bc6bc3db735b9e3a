"""Dependent quantization: the trellis by hand, the best walk against all walks, and what it saves."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from edgepress.passes.lossy.dependent import BLOCK, FARTHEST, LARGEST, best_walk, costs_for, kind_for, walked
from edgepress.trellis import ODD, ODD_AND_ZERO, following, grids, positions, steps_of


def test_states_by_hand() -> None:
    # 0 stays 0 on even k and goes to 121 on odd; 121, odd, goes to 60 ^ 166, and that ^ 121 on odd k; 154 to 77.
    assert [following(0, 0), following(0, 1)] == [0, 121]
    assert [following(121, 0), following(121, 1), following(154, 0)] == [154, 227, 77]


def test_every_state_is_reached_from_two() -> None:
    reached = [following(state, odd) for state in range(256) for odd in range(2)]
    assert sorted(reached) == sorted(2 * list(range(256)))


@pytest.mark.parametrize(
    ("kind", "multiples"),
    [
        pytest.param(ODD, [4, 2, 3, -4, -3, -1], id="odd ones"),
        pytest.param(ODD_AND_ZERO, [4, 2, 3, -4, -1, 0], id="odd ones and zero"),
    ],
)
def test_positions_by_hand(kind: int, multiples: list[int]) -> None:
    # States 0, 0, 121, 154, 77, 249: the third, fifth and sixth k are on the odd grid.
    steps = np.array([2, 1, 2, -2, -1, 0], np.int16)
    assert grids(steps).tolist() == [0, 0, 1, 0, 1, 1]
    assert positions(steps, kind).tolist() == multiples


@pytest.mark.parametrize("kind", [ODD, ODD_AND_ZERO])
def test_steps_come_back_from_positions(kind: int) -> None:
    steps = np.random.default_rng(0).integers(-5, 6, 1200).astype(np.int16)
    found, possible = steps_of(positions(steps, kind), kind)
    assert possible and np.array_equal(found, steps)
    assert not steps_of(positions(steps, kind) + np.int16(1), kind)[1]


@pytest.mark.parametrize("kind", [ODD, ODD_AND_ZERO])
def test_the_best_walk_is_the_best_of_all(kind: int) -> None:
    """Of five weights, against every sequence of k from -3 to 3."""
    weights = np.array([0.4, -2.7, 3.1, 0.9, -0.6])
    costs = 0.25 * np.abs(np.arange(-FARTHEST, FARTHEST + 1))[None].repeat(2, 0)
    costs[1] += 0.1

    def cost(steps: np.ndarray) -> float:  # type: ignore[type-arg]
        error = float(((weights - positions(steps, kind)) ** 2).sum())
        return error + float(costs[grids(steps), steps + FARTHEST].sum())

    every = [np.array(each, np.int16) for each in itertools.product(range(-3, 4), repeat=5)]
    assert cost(best_walk(weights, costs, kind)) == pytest.approx(min(map(cost, every)), abs=1e-9)


def test_a_walk_in_blocks_costs_what_the_best_one_does() -> None:
    """The error of a long walk is that of short ones of the same weights, each free of where the others end."""
    weights = np.random.default_rng(1).normal(0, 3, 2 * BLOCK + 1000)
    costs = costs_for(weights[:BLOCK], ODD)

    def cost(part: np.ndarray) -> float:  # type: ignore[type-arg]
        steps = best_walk(part, costs, ODD)
        error = ((part - positions(steps, ODD)) ** 2).sum()
        return float(error + costs[grids(steps), steps + FARTHEST].sum())

    parts = sum(cost(part) for part in np.split(weights, [BLOCK, 2 * BLOCK]))
    assert (
        parts - 20 < cost(weights) < parts + 1
    )  # of some 25,000: a part more begins in a state that it is given


@pytest.mark.parametrize(
    ("spread", "kind"),
    [pytest.param(4.0, ODD, id="wide"), pytest.param(0.7, ODD_AND_ZERO, id="nearly all of them zero")],
)
def test_at_the_same_error_fewer_bits_than_any_step(spread: float, kind: int) -> None:
    """Of weights at some 2 and 0.6 bits: a fifteenth less than rounding to the nearest multiples of one step."""
    weights = np.random.default_rng(0).laplace(0, spread / 2, (400, 200))
    assert kind_for(weights) == kind
    multiples = walked(weights, kind)
    error = ((weights - multiples) ** 2).mean()
    steps, _ = steps_of(multiples.reshape(-1), kind)
    on = grids(steps)
    walk = sum(entropy(steps[on == grid]) for grid in range(2)) / weights.size
    step = 1.0
    while ((weights - step * np.round(weights / step)) ** 2).mean() < error:
        step *= 1.002
    assert walk < 14 / 15 * entropy(np.round(weights / step).astype(int)) / weights.size


def entropy(symbols: np.ndarray) -> float:  # type: ignore[type-arg]
    counts = np.unique(symbols, return_counts=True)[1]
    return float(-(counts * np.log2(counts / counts.sum())).sum())


def test_weights_beyond_the_range_end_at_its_end() -> None:
    """Not at zero, as a search among the nearest k alone would leave them."""
    first, second = walked(np.array([1e4, -1e4]), ODD)
    assert first >= LARGEST and second <= -LARGEST
