"""What is kept only where it does no harm to samples that nothing was fitted to."""

from __future__ import annotations

import pytest
import torch
from edgepress.passes.gating.held_out import keep_where_no_worse, least
from torch import nn


def loss(network: nn.Module) -> float:
    """How far the norm's mean, which is a buffer, and its weight are from 1."""
    return sum(float((x - 1).abs()) for x in network.state_dict().values() if x.shape == (1,)) - 1


@pytest.mark.parametrize(("by", "kept"), [(0.75, True), (1.0, True), (1.5, False), (float("nan"), False)])
def test_a_change_stays_where_the_loss_does_not_rise(by: float, kept: bool) -> None:
    network = nn.BatchNorm1d(1)
    with torch.no_grad():
        network.weight.fill_(2.0)
    network.running_mean.fill_(2.0)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}

    def change() -> None:
        with torch.no_grad():
            network.weight.mul_(by)
        network.running_mean.mul_(by)

    trial = keep_where_no_worse(network, change, loss)
    assert (trial.before, trial.kept) == (2.0, kept)
    factor = by if kept else 1.0
    assert torch.equal(network.weight.detach(), before["weight"] * factor)
    assert torch.equal(network.state_dict()["running_mean"], before["running_mean"] * factor)


@pytest.mark.parametrize(
    ("losses", "place"),
    [([2.0, 1.0], 1), ([float("nan"), 1.0], 1), ([1.0, float("nan")], 0), ([float("inf"), float("nan")], 0)],
)
def test_the_least_loss_is_a_number_where_there_is_one(losses: list[float], place: int) -> None:
    assert least(losses) == place
