"""Weights at a stated error: never beyond it, not far below, and what must stay as it is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from edgepress.passes.lossy.rounded import coarser, rounded


def share(weight: torch.Tensor, found: torch.Tensor) -> float:
    """Squared error over energy."""
    return float((weight - found).double().square().sum() / weight.double().square().sum())


def normal(*shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).standard_normal(shape).astype(np.float32))


@pytest.mark.parametrize("error", [0.0003, 0.001, 0.01, 0.1])
@pytest.mark.parametrize("shape", [(64, 64), (64, 32, 3, 3), (384, 96)], ids=str)
def test_the_error_is_kept_and_used(error: float, shape: tuple[int, ...]) -> None:
    weight = normal(*shape)
    found = rounded(weight, error)
    assert found is not None and found.trellis and found.indices.shape == weight.shape
    assert 0.8 * error < share(weight, found.tensor()) <= error


def test_a_channel_of_large_weights_does_not_make_the_others_coarse() -> None:
    """One row ten times the others: at one step for all, those would be in reach of few multiples."""
    weight = normal(64, 64)
    weight[3] *= 10
    found = rounded(weight, 3e-4)
    assert found is not None and found.scale is not None and found.axis == 0
    assert share(weight, found.tensor()) <= 3e-4
    assert float(found.scale[3]) > float(found.scale.min())


def with_zeros(weight: torch.Tensor, *where: slice | int) -> torch.Tensor:
    weight[where] = 0
    return weight


@pytest.mark.parametrize(
    "weight",
    [
        pytest.param(with_zeros(normal(512, 1024), slice(None), slice(0, None, 16)), id="dead inputs"),
        pytest.param(with_zeros(normal(256, 128, 3, 3), slice(None), slice(None), 0, 0), id="a dead tap"),
        pytest.param(with_zeros(normal(512, 1024), slice(None), slice(1, None)), id="one input"),
        pytest.param(torch.where(normal(64, 64) > 1, 1.0, 0.0), id="two values"),
        pytest.param(torch.ones(64, 64), id="one value"),
    ],
)
def test_weights_that_are_not_evenly_spread(weight: torch.Tensor) -> None:
    for error in (1e-3, 0.1):
        found = rounded(weight, error)
        assert found is not None and share(weight, found.tensor()) <= error


def test_taps_of_unlike_size_use_the_error() -> None:
    weight = normal(256, 128, 3, 3)
    weight[:, :, 0, 0] *= 0.3
    found = rounded(weight, 0.01)
    assert found is not None and 0.9 * 0.01 < share(weight, found.tensor()) <= 0.01


@pytest.mark.parametrize(
    "weight",
    [
        pytest.param(1e-45 * torch.ones(64, 64), id="the smallest numbers"),
        pytest.param(normal(4096), id="a vector"),
        pytest.param(normal(8, 8), id="small"),
        pytest.param(torch.zeros(64, 64), id="all zero"),
        pytest.param(torch.full((64, 64), float("nan")), id="NaN"),
        pytest.param(normal(64, 64).double(), id="float64"),
        pytest.param(normal(64, 64).half(), id="float16"),
        pytest.param(torch.ones(64, 64, dtype=torch.int64), id="integers"),
    ],
)
def test_what_stays_as_it_is(weight: torch.Tensor) -> None:
    assert rounded(weight, 0.01) is None
    assert torch.equal(coarser(weight, 0.01)[0], weight) or bool(weight.isnan().any())


def test_int8_goes_to_every_kth_integer() -> None:
    integers = (25 * normal(64, 64)).round().clamp(-127, 127).to(torch.int8)
    found, k = coarser(integers, 0.01)
    assert k > 2 and found.dtype == torch.int8 and not (found % k).any()
    assert share(integers.float(), found.float()) <= 0.01
    assert int(found.abs().max()) <= 127
    wider = torch.round(integers.double() / (k + 1)).clamp(-(127 // (k + 1)), 127 // (k + 1)) * (k + 1)
    assert share(integers.float(), wider.float()) > 0.01


def test_int8_that_no_error_allows_stays() -> None:
    integers = (25 * normal(64, 64)).round().clamp(-127, 127).to(torch.int8)
    assert coarser(integers, 1e-6) == (integers, 1)
