"""A change of level is found where it is, and noise, spikes and short series are none."""

from __future__ import annotations

import numpy as np
import pytest
from edgepress.targets.measuring.change_points import change_points
from ruptures import Pelt

SERIES = 300


@pytest.mark.parametrize(
    "values",
    [
        pytest.param([], id="nothing"),
        pytest.param([1.0, 1.0, 1.0, 9.0, 9.0], id="five values, one fewer than two levels take"),
        pytest.param([0.1 + 0.2] * 40, id="constant"),
        pytest.param([5.0] * 10 + [6.0] + [5.0] * 9, id="a spike"),
        pytest.param([6.0] + [5.0] * 9, id="a spike at the start"),
        pytest.param([5.0] * 9 + [6.0], id="a spike at the end"),
        pytest.param([5.0] * 9 + [6.0, 6.0], id="two values are no level"),
    ],
)
def test_no_change(values: list[float]) -> None:
    assert change_points(values) == []


def test_a_spike_in_noise_is_no_change_however_high() -> None:
    draw = np.random.default_rng(5)
    for height in (10, 100, 1e6):
        values = draw.normal(size=40)
        values[20] += height
        assert change_points(values) == []


@pytest.mark.parametrize("size", [6, 7, 20])
def test_without_noise_every_step_is_found_exactly(size: int) -> None:
    for first in range(3, size - 2):
        assert change_points([5.0] * first + [5.0001] * (size - first)) == [first]


def test_levels_of_three_are_all_found() -> None:
    assert change_points([1, 1, 1, 2, 2, 2, 1, 1, 1, 4, 4, 4]) == [3, 6, 9]


def test_scale_and_offset_change_nothing() -> None:
    values = np.random.default_rng(3).normal(size=30) + 4.0 * (np.arange(30) >= 12)
    assert change_points(values) == change_points(1e-6 * values) == change_points(1e6 - values) == [12]


def test_noise_alone_rarely_changes() -> None:
    """0.7 % of 20,000 series show a change, which of 300 is 2.1: seven or more would be chance of one in 200."""
    draw = np.random.default_rng(0)
    assert sum(bool(change_points(draw.normal(size=50))) for _ in range(SERIES)) <= 6


def test_a_step_of_three_standard_deviations_is_found() -> None:
    """81 % with 6 values on each side (a standard error of 300 is 2.3 %), and all with 25."""
    draw = np.random.default_rng(0)

    def found(side: int) -> float:
        step = np.repeat([0.0, 3.0], side)
        return sum(bool(change_points(draw.normal(size=2 * side) + step)) for _ in range(SERIES)) / SERIES

    assert found(6) > 0.74
    assert found(25) > 0.99


def test_a_step_is_found_where_it_is() -> None:
    draw = np.random.default_rng(1)
    places = [change_points(draw.normal(size=40) + 5.0 * (np.arange(40) >= 17)) for _ in range(100)]
    assert sum(place == [17] for place in places) >= 90


def test_a_ramp_of_steps_as_a_device_that_gets_hot() -> None:
    draw = np.random.default_rng(2)
    levels = np.repeat([1.0, 1.2, 1.5], [40, 30, 60])
    assert change_points(np.log(levels * np.exp(0.01 * draw.normal(size=130)))) == [40, 70]


def test_the_compiled_search_is_the_one_in_python() -> None:
    """ruptures has PELT twice; we use the compiled one, which is 600 times as fast."""
    draw = np.random.default_rng(4)
    for _ in range(10):
        values = draw.normal(size=40) + 3.0 * draw.integers(0, 2, size=4).repeat(10)
        noise = np.median(np.abs(np.diff(values))) / (0.6745 * 2**0.5)
        search = Pelt(model="l2", min_size=3, jump=1).fit(values)
        assert change_points(values) == search.predict(pen=4.5 * noise**2 * np.log(40))[:-1]


def test_what_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        change_points([1.0, float("nan")] * 5)
