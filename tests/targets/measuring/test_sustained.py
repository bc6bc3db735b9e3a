"""Thermal knees: seconds and levels worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from edgepress.targets.measuring.sustained import sustained


def seconds_of(ms: float, seconds: int, draw: np.random.Generator, sd: float = 0.005) -> list[int]:
    """Samples of about `ms` that fill so many seconds."""
    count = round(1000 * seconds / ms)
    return [round(1e6 * ms * value) for value in np.exp(sd * draw.standard_normal(count))]


def test_a_device_that_throttles_has_a_knee_where_it_got_slower():
    draw = np.random.default_rng(0)
    found = sustained(seconds_of(10, 30, draw) + seconds_of(14, 20, draw))
    assert found.seconds == pytest.approx(50, rel=0.01)
    assert (found.first_ms, found.last_ms) == (pytest.approx(10, rel=0.01), pytest.approx(14, rel=0.01))
    assert found.knee_s == pytest.approx(30, abs=1.0)
    assert len(found.windows_ms) in (50, 51)


@pytest.mark.parametrize(
    "seconds",
    [
        pytest.param([(10, 50)], id="steady"),
        pytest.param([(10, 25), (10.2, 25)], id="2 % slower is no knee"),
        pytest.param([(14, 20), (10, 30)], id="it got faster"),
        pytest.param([(10, 2)], id="too short to tell"),
    ],
)
def test_no_knee(seconds):
    draw = np.random.default_rng(1)
    samples = [ns for ms, length in seconds for ns in seconds_of(ms, length, draw)]
    assert sustained(samples).knee_s is None


def test_samples_of_many_calls_take_as_long_as_all_of_them():
    assert sustained([1_000_000] * 100, calls_per_sample=50).seconds == pytest.approx(5.0)
