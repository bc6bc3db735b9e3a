"""Activation ranges from streamed histograms."""

from __future__ import annotations

import pytest
import torch
from edgepress.calibration.ranges import BINS, Observer, Range, choose_range
from torch import Tensor

METHODS = ("minmax", "percentile", "mse", "entropy")


def observer_of(*pieces: Tensor) -> Observer:
    observer = Observer()
    for piece in pieces:
        observer.see_extremes(piece)
    for piece in pieces:
        observer.see_values(piece)
    return observer


def squared_error(x: Tensor, chosen: Range, symmetric: bool) -> float:
    """The true mean squared error of the grid that a range stands for."""
    x = x.double()
    if symmetric:
        step = max(-chosen.low, chosen.high) / 127
        integers = torch.clamp(torch.round(x / step), -128, 127)
    else:
        step = (chosen.high - chosen.low) / 255
        zero_point = round(-chosen.low / step)
        integers = torch.clamp(torch.round(x / step) + zero_point, 0, 255) - zero_point
    return float((x - integers * step).square().mean())


def gaussian(count: int = 50_000) -> Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("method", ["percentile", "mse", "entropy"])
def test_a_lone_outlier_is_clipped(method: str, symmetric: bool) -> None:
    x = torch.cat([gaussian(), torch.tensor([15.0])])
    observer = observer_of(x)
    widest, chosen = (choose_range(observer, m, symmetric) for m in ("minmax", method))
    assert widest.high == 15.0
    assert chosen.high < 14.0


@pytest.mark.parametrize("symmetric", [True, False])
def test_clipping_a_lone_outlier_lowers_the_squared_error(symmetric: bool) -> None:
    x = torch.cat([gaussian(), torch.tensor([15.0])])
    observer = observer_of(x)
    widest, chosen = (choose_range(observer, m, symmetric) for m in ("minmax", "mse"))
    assert squared_error(x, chosen, symmetric) < squared_error(x, widest, symmetric)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("outlier", [0.0, 5.0, 100.0, 1e4])
def test_mse_is_never_worse_than_minmax(outlier: float, symmetric: bool) -> None:
    x = torch.cat([gaussian(20_000), torch.tensor([outlier])])
    observer = observer_of(x)
    errors = [squared_error(x, choose_range(observer, m, symmetric), symmetric) for m in ("mse", "minmax")]
    # The histogram sees the middle of a bin for each value: 2 % is far above that at 2,048 bins.
    assert errors[0] <= errors[1] * 1.02


@pytest.mark.parametrize("method", METHODS)
def test_uniform_values_are_not_clipped(method: str) -> None:
    chosen = choose_range(observer_of(torch.linspace(-1.0, 1.0, 100_001)), method, symmetric=True)
    assert max(-chosen.low, chosen.high) == pytest.approx(1.0, abs=0.03)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("symmetric", [True, False])
def test_an_all_zero_tensor_still_gets_a_grid(method: str, symmetric: bool) -> None:
    chosen = choose_range(observer_of(torch.zeros(100)), method, symmetric)
    assert chosen.low <= 0.0 <= chosen.high
    assert 0.0 < chosen.high - chosen.low < 1e-9


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("value", "symmetric"), [(5.0, True), (5.0, False), (-5.0, True), (-5.0, False)])
def test_a_constant_tensor_keeps_its_value(method: str, value: float, symmetric: bool) -> None:
    chosen = choose_range(observer_of(torch.full((100,), value)), method, symmetric)
    assert chosen.low <= 0.0 <= chosen.high
    # within a bin of the histogram and half a step of the grid
    assert squared_error(torch.tensor([value]), chosen, symmetric) ** 0.5 < 5.0 / BINS + 5.0 / 254


def test_an_asymmetric_range_follows_each_end() -> None:
    x = gaussian().abs()
    chosen = choose_range(observer_of(x), "mse", symmetric=False)
    assert chosen.low == pytest.approx(0.0, abs=1e-9)
    assert chosen.high == pytest.approx(float(x.max()), rel=0.2)


def test_a_symmetric_range_is_judged_on_the_grid_it_becomes() -> None:
    # Nothing is negative: half of the symmetric grid is unused, and clipping is judged with the coarser step.
    x = gaussian().abs()
    errors = {}
    for symmetric in (True, False):
        chosen = choose_range(observer_of(x), "mse", symmetric)
        errors[symmetric] = squared_error(x, chosen, symmetric)
    assert 3.0 < errors[True] / errors[False] < 4.5  # twice the step: four times the squared error


def test_percentile_of_a_hand_made_histogram() -> None:
    # bins are 1 wide: 99,995 values in the first, 5 at the end; the middle 99.99 % leaves 5 on either side
    observer = Observer(low=0.0, high=float(BINS))
    observer.counts[0], observer.counts[-1] = 99_995, 5
    chosen = choose_range(observer, "percentile", symmetric=False)
    assert chosen.high == pytest.approx(0.5, abs=1e-6)
    observer.counts[-1] = 20
    assert choose_range(observer, "percentile", symmetric=False).high == pytest.approx(BINS - 0.5)


def test_data_in_pieces_gives_what_it_gives_at_once() -> None:
    x = gaussian(10_000)
    at_once, in_pieces = observer_of(x), observer_of(*x.split(333))
    assert (at_once.low, at_once.high) == (in_pieces.low, in_pieces.high)
    assert torch.equal(at_once.counts, in_pieces.counts)
    assert in_pieces.counts.sum() == 10_000
    for method in METHODS:
        assert choose_range(at_once, method, True) == choose_range(in_pieces, method, True)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_values_that_no_grid_holds_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="NaN or infinite"):
        Observer().see_extremes(torch.tensor([1.0, bad]))
