"""Axes: they hold what is drawn on them, with room, and are written on in round numbers."""

from __future__ import annotations

import pytest
from edgepress.pipeline.pages.axis import Axis, axis_over


def test_axes() -> None:
    assert axis_over([1.0, 4.0], from_zero=True).low == 0
    wide = axis_over([0.1, 50.0], from_zero=True)
    assert wide.logarithmic
    assert wide.ticks() == pytest.approx([0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100])
    fractions = axis_over([0.99, 1.0], from_zero=False)
    assert (fractions.low, fractions.high) == (pytest.approx(0.9888), 1.0)
    assert Axis(0, 10).ticks() == [0, 2, 4, 6, 8, 10]
    assert [Axis(0, 10).share(v) for v in (-5, 2.5, 99)] == [0, 0.25, 1]


@pytest.mark.parametrize("values", [[0.0], [5.0], [0.0, 0.0], [1e-9, 1e9], [-3.0, 3.0], []], ids=str)
@pytest.mark.parametrize("from_zero", [True, False])
def test_any_axis_has_room_and_ticks(values: list[float], from_zero: bool) -> None:
    axis = axis_over(values, from_zero)
    assert axis.low < axis.high
    assert 2 <= len(axis.ticks()) <= 80
    assert all(0 <= axis.share(v) <= 1 for v in values)
