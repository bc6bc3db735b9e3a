"""Weights that are computed before each call are plain weights after ingest, and the outputs the same."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import pytest
import torch
from edgepress.pipeline.ingest.baked import bake_in, detach_computed
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, spectral_norm, weight_norm


class Doubled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x.tril()


def custom(layer: nn.Module) -> nn.Module:
    parametrize.register_parametrization(layer, "weight", Doubled())
    return layer


@pytest.mark.parametrize(
    "norm",
    [weight_norm, spectral_norm, parametrizations.weight_norm, parametrizations.spectral_norm, custom],
    ids=["old weight_norm", "old spectral_norm", "new weight_norm", "new spectral_norm", "a custom one"],
)
def test_what_is_computed_is_baked_in(norm: Callable[[nn.Module], nn.Module]) -> None:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = nn.Sequential(norm(nn.Linear(6, 5)), nn.PReLU(5), norm(nn.Linear(5, 3, bias=False)))
        net(torch.randn(2, 6))  # spectral_norm learns its vectors in training mode
    detach_computed(net)
    net = copy.deepcopy(net).eval()
    x = torch.randn(4, 6)
    with torch.no_grad():
        expected = net(x)
        bake_in(net)
        assert torch.allclose(net(x), expected, rtol=1e-6, atol=1e-6)
    assert sorted(net.state_dict()) == ["0.bias", "0.weight", "1.weight", "2.weight"]
    assert not net[0]._forward_pre_hooks and not parametrize.is_parametrized(net)
    copy.deepcopy(net)
