"""Dependent quantization: the trellis by hand, the best walk against all walks, and what it saves."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from edgepress.passes.lossy.dependent import FARTHEST, LARGEST, best_walk, costs_for, walked
from edgepress.trellis import following, grids, positions, steps_of


def test_states_by_hand() -> None:
    # 0 stays 0 on even k and goes to 10 on odd; 10 = 0b1010 goes to 5; 5 = 0b101, odd, to 2 ^ 33, and ^ 10 on odd k.
    assert [following(0, 0), following(0, 1), following(10, 0)] == [0, 10, 5]
    assert [following(5, 0), following(5, 1)] == [35, 41]


def test_every_state_is_reached_from_two() -> None:
    reached = [following(state, odd) for state in range(64) for odd in range(2)]
    assert sorted(reached) == sorted(2 * list(range(64)))


def test_positions_by_hand() -> None:
    # States 0, 10, 5, 35, …: the third and fourth k are on the odd grid, where k = 2 is 3 and k = -1 is -1.
    column = np.array([[1], [2], [2], [-1]], np.int16)
    assert grids(column, 0).ravel().tolist() == [0, 0, 1, 1]
    assert positions(column, 0).ravel().tolist() == [2, 4, 3, -1]
    assert positions(column.reshape(1, 4), 1).ravel().tolist() == [2, 4, 3, -1]


@pytest.mark.parametrize("path", [0, 1])
def test_steps_come_back_from_positions(path: int) -> None:
    steps = np.random.default_rng(0).integers(-5, 6, (40, 30)).astype(np.int16)
    found, possible = steps_of(positions(steps, path), path)
    assert possible and np.array_equal(found, steps)
    assert not steps_of(positions(steps, path) + np.int16(1), path)[1]


def test_the_best_walk_is_the_best_of_all() -> None:
    """Of five weights, against every sequence of k from -3 to 3."""
    weights = np.array([0.4, -2.7, 3.1, 0.9, -0.6])[:, None]
    costs = 0.25 * np.abs(np.arange(-FARTHEST, FARTHEST + 1))[None].repeat(2, 0)
    costs[1] += 0.1

    def cost(steps: np.ndarray) -> float:  # type: ignore[type-arg]
        error = float(((weights - positions(steps, 0)) ** 2).sum())
        return error + float(costs[grids(steps, 0), steps + FARTHEST].sum())

    every = [np.array(each, np.int16)[:, None] for each in itertools.product(range(-3, 4), repeat=5)]
    assert cost(best_walk(weights, costs)) == pytest.approx(min(map(cost, every)), abs=1e-9)


def test_at_the_same_error_fewer_bits_than_any_step() -> None:
    """Of a normal distribution at some 2 bits: a twentieth less than rounding to the nearest multiples of one step."""
    weights = np.random.default_rng(0).normal(0, 2.2, (400, 200))
    costs_for(weights)
    multiples = walked(weights)
    error = ((weights - multiples) ** 2).mean()
    steps, _ = steps_of(multiples, 0)
    on = grids(steps, 0)
    walk = sum(entropy(steps[on == grid]) for grid in range(2)) / weights.size
    step = 1.0
    while ((weights - step * np.round(weights / step)) ** 2).mean() < error:
        step *= 1.002
    assert walk < 0.95 * entropy(np.round(weights / step).astype(int)) / weights.size


def entropy(symbols: np.ndarray) -> float:  # type: ignore[type-arg]
    counts = np.unique(symbols, return_counts=True)[1]
    return float(-(counts * np.log2(counts / counts.sum())).sum())


def test_weights_beyond_the_range_end_at_its_end() -> None:
    """Not at zero, as a search among the nearest k alone would leave them."""
    first, second = walked(np.array([[1e4], [-1e4]])).ravel().tolist()
    assert first >= LARGEST and second <= -LARGEST
