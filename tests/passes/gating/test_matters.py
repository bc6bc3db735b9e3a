"""Where a layer's outputs matter: gradients by hand, on any axis, and a regression that follows them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from edgepress.passes.channels.surgery import Cut
from edgepress.passes.gating.compensation import compensate
from edgepress.passes.gating.matters import EVEN, where_it_matters
from quantization_nets import Net
from torch import Tensor, nn


def summed(outputs: Any, _: int) -> Tensor:
    """A likelihood whose gradient is 1 in each output."""
    total: Tensor = outputs.sum()
    return total


def weighted(*weights: float) -> Net:
    """A linear layer on tokens, and a sum over them with these weights."""
    factors = torch.tensor(weights)[:, None]
    return Net(lambda n, x: (n.layer(x) * factors).sum((1, 2)), layer=nn.Linear(3, 2))


def test_the_square_of_the_gradient_by_hand() -> None:
    """Gradients 1 and 2 of either channel: squares 1 and 4 over their mean, 2.5, and half is alike."""
    found = where_it_matters(weighted(1.0, 2.0), [(torch.randn(5, 2, 3),), (torch.randn(4, 2, 3),)], summed)
    torch.testing.assert_close(found["layer"], EVEN + (1 - EVEN) * torch.tensor([0.4, 1.6]))


def test_a_token_that_the_answer_does_not_see_counts_least() -> None:
    found = where_it_matters(weighted(3.0, 0.0, 0.0, 0.0), [(torch.randn(4, 4, 3),)], summed)
    torch.testing.assert_close(found["layer"], torch.tensor([EVEN + (1 - EVEN) * 4, *[EVEN] * 3]))


def test_what_matters_nowhere_matters_alike() -> None:
    found = where_it_matters(weighted(0.0, 0.0), [(torch.randn(4, 2, 3),)], summed)
    assert found["layer"].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("samples", [2, 5])  # as many as there are positions, and another number
def test_samples_may_lie_along_any_axis_and_positions_are_those_of_maps(samples: int) -> None:
    factors = torch.tensor([1.0, 3.0])
    net = Net(
        lambda n, x: (
            (n.conv(x).sum(1) + n.tokens(x.permute(2, 0, 1)).sum(2).T + n.rows(x.mT).sum(2)) * factors
        ).sum(1),
        conv=nn.Conv1d(3, 2, 1), tokens=nn.Linear(3, 2), rows=nn.Linear(3, 2),
    )  # fmt: skip
    found = where_it_matters(net, [(torch.randn(samples, 3, 2),)] * 2, summed)
    expected = EVEN + (1 - EVEN) * torch.tensor([0.2, 1.8])
    torch.testing.assert_close(found, {"conv": expected, "tokens": expected, "rows": expected})


@pytest.mark.parametrize("inplace", [True, False])
def test_what_an_activation_closes_does_not_matter(inplace: bool) -> None:
    """Position 1 is below zero, and behind the layer nothing of it is left."""
    net = Net(
        lambda n, x: n.activation(n.layer(x)).sum((1, 2)), layer=nn.Linear(1, 1), activation=nn.ReLU(inplace)
    )
    with torch.no_grad():
        net.layer.weight.fill_(1.0)
        net.layer.bias.zero_()
    inputs = torch.tensor([[[1.0], [-1.0]], [[2.0], [-3.0]]])
    found = where_it_matters(net, [(inputs,)], summed)
    torch.testing.assert_close(found["layer"], torch.tensor([EVEN + (1 - EVEN) * 2, EVEN]))


def test_layers_that_are_called_twice_or_sometimes_are_left_out() -> None:
    def forward(n: Any, x: Tensor) -> Tensor:
        y = n.twice(n.twice(x)) + (n.sometimes(x) if len(x) > 1 else 0.0)
        return (y + n.grows(x[:, : len(x)]).sum(1, keepdim=True)).sum((1, 2))

    net = Net(forward, twice=nn.Linear(3, 3), sometimes=nn.Linear(3, 3), grows=nn.Linear(3, 3))
    batches = [(torch.randn(2, 4, 3),), (torch.randn(3, 4, 3),)]
    assert where_it_matters(net, batches, summed) == {}


def test_of_a_network_whose_tensors_are_frozen_too() -> None:
    net = weighted(1.0, 2.0)
    net.requires_grad_(False)
    with torch.no_grad():
        assert "layer" in where_it_matters(net, [(torch.randn(3, 2, 3),)], summed)
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in net.parameters())


def test_a_layer_is_fitted_to_what_matters() -> None:
    """The first token asks for another weight than the rest do; one layer cannot have both."""
    torch.manual_seed(0)

    def tokens(count: int) -> Tensor:
        x = torch.randn(count, 9, 4)
        x[:, 0, 3] = x[:, 0, 0]  # what a lost channel held, and the opposite in the other tokens
        x[:, 1:, 3] = -x[:, 1:, 0]
        return x

    whole = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    with torch.no_grad():
        whole[0].weight.copy_(torch.eye(4))
    cut = Cut({"0.weight": {0: [0, 1, 2]}, "0.bias": {0: [0, 1, 2]}, "1.weight": {1: [0, 1, 2]}})
    fit, held = tokens(32), tokens(16)
    errors = {}
    for name, first in (("alike", 1.0), ("first", 100.0)):
        smaller = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
        with torch.no_grad():
            smaller[0].weight.copy_(whole[0].weight[:3])
            smaller[0].bias.copy_(whole[0].bias[:3])
            smaller[1] = copy.deepcopy(whole[1])
            smaller[1].weight = nn.Parameter(whole[1].weight[:, :3].clone())
        matters = {"1": torch.tensor([first, *[1.0] * 8])}
        compensate(whole, smaller, cut, [(fit,)], [(held,)], matters=matters)
        with torch.no_grad():
            errors[name] = float((whole(held) - smaller(held))[:, 0].square().mean())
    assert errors["first"] < 0.05 * errors["alike"]
