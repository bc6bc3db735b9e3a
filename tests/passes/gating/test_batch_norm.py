"""BatchNorm's statistics measured anew."""

from __future__ import annotations

from typing import Any

import torch
from edgepress.passes.gating.batch_norm import reestimate
from torch import nn


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4, momentum=0.3), nn.ReLU(), nn.Dropout(), nn.Conv2d(4, 3, 1),
        nn.BatchNorm2d(3), nn.GroupNorm(1, 3),
    ).eval()  # fmt: skip


def test_each_norm_standardizes_what_it_is_given_behind_those_before_it() -> None:
    net, inputs = network(), 3 * torch.randn(64, 2, 8, 8) + 1
    reestimate(net, [(inputs,)])
    for place in (1, 5):
        values = net[: place + 1](inputs).detach().transpose(0, 1).flatten(1)
        assert float(values.mean(1).abs().max()) < 1e-3
        # n / (n - 1) of the variance of 64 · 36 values, and the norm's eps
        torch.testing.assert_close(values.var(1), torch.ones(len(values)), rtol=2e-3, atol=0.0)


def test_batches_count_alike() -> None:
    net, batches = network(), [torch.randn(16, 2, 8, 8) + shift for shift in (0.0, 2.0)]
    reestimate(net, [(batch,) for batch in batches])
    norm: Any = net[1]
    made = [net[0](batch).detach().transpose(0, 1).flatten(1) for batch in batches]
    torch.testing.assert_close(norm.running_mean, (made[0].mean(1) + made[1].mean(1)) / 2)
    torch.testing.assert_close(norm.running_var, (made[0].var(1) + made[1].var(1)) / 2)


def test_nothing_else_changes() -> None:
    net = network()
    net[1].train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    modes = [module.training for module in net.modules()]
    reestimate(net, [(torch.randn(8, 2, 8, 8),)])
    assert modes == [module.training for module in net.modules()]
    assert [net[1].momentum, net[5].momentum] == [0.3, 0.1]
    changed = {name for name, tensor in net.state_dict().items() if not torch.equal(tensor, before[name])}
    assert {name.rpartition(".")[2] for name in changed} == {
        "running_mean",
        "running_var",
        "num_batches_tracked",
    }


def test_norms_without_statistics_stay() -> None:
    net = nn.Sequential(nn.BatchNorm1d(3, track_running_stats=False))
    reestimate(net, [(torch.randn(8, 3),)])
    assert net.state_dict().keys() == {"0.weight", "0.bias"}
