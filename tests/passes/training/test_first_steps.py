"""How much first steps change the loss, and the rate that they say fits."""

from __future__ import annotations

import pytest
import torch
from edgepress.passes.training.first_steps import predicted_fall, rate_that_fits, weights_before
from torch import nn


def test_the_fall_is_gradients_times_moves_at_the_largest_rate() -> None:
    """loss = 3 a - 2 b: a step of AdamW moves both by the rate, here a fifth of the largest one."""
    a, b = nn.Parameter(torch.tensor([1.0])), nn.Parameter(torch.tensor([1.0]))
    optimizer = torch.optim.AdamW([{"params": [a, b], "peak_lr": 0.5}], lr=0.1, weight_decay=0.0)
    (3 * a - 2 * b).backward()
    before = weights_before(optimizer)
    optimizer.step()
    assert predicted_fall(optimizer, before) == pytest.approx((3 + 2) * 0.5, rel=1e-5)


def test_what_has_no_gradient_or_no_rate_counts_nothing() -> None:
    a, b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW(
        [{"params": [a], "lr": 0.0, "peak_lr": 1.0}, {"params": [b], "lr": 0.1, "peak_lr": 1.0}]
    )
    a.sum().backward()
    before = weights_before(optimizer)
    optimizer.step()
    assert predicted_fall(optimizer, before) == 0


def test_the_rate_that_fits_is_told_to_one_digit() -> None:
    assert rate_that_fits(1e-4, 52.0) == 6e-7
    assert rate_that_fits(0.02, 0.6) == 0.01
