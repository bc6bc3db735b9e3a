"""Error compensation in `l2`: the moments against the layer itself, the errors by hand, and what is left alone."""

from __future__ import annotations

from typing import Any

import pytest
import quantization_nets as nets
import torch
from edgepress.passes.graph.capture import capture
from edgepress.passes.lossy.coded import Codes, Unit
from edgepress.passes.lossy.compensation import compensable, compensate, second_moments
from edgepress.passes.lossy.importance import codable
from torch import nn

LAYERS: list[tuple[nn.Module, tuple[int, ...]]] = [
    (nn.Linear(6, 4, bias=False), (5, 6)),
    (nn.Conv2d(4, 6, 3, bias=False), (4, 7, 6)),
    (
        nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2), groups=2, bias=False),
        (4, 9, 8),
    ),
    (nn.Conv2d(4, 8, 3, padding="same", groups=4, bias=False), (4, 6, 6)),
    (nn.Conv1d(3, 5, 4, stride=2, padding=1, bias=False), (3, 12)),
]


@pytest.mark.parametrize(("layer", "shape"), LAYERS)
def test_the_moments_tell_what_a_change_of_weights_does(layer: nn.Module, shape: tuple[int, ...]) -> None:
    """Σ outputs² of the layer with the weights d is Σ dᵀ H d over its output channels."""
    part = nets.samples(4, *shape)
    graph = capture(nets.model_of(nn.Sequential(layer), *shape))
    moments = second_moments(graph, compensable(graph, codable(graph)), part, 2)
    [(name, found)] = moments.items()
    weight = graph.get_parameter(name).detach()
    by_group = weight.reshape(found.shape[0], -1, found.shape[1])
    predicted = torch.einsum("gri,gij,grj->", by_group, found, by_group)
    with torch.no_grad():
        outputs = layer(torch.stack([x for (x,), _ in part.samples]))
    assert float(predicted) == pytest.approx(float((outputs**2).sum()), rel=1e-4)


def test_two_weights_by_hand() -> None:
    """H = [[2, 1], [1, 1]]: 0.4 rounds to 0, and the second weight takes over 0.4 · 1 / 1 of it: 1.2 -> 1.6 -> 2."""
    codes = Codes(torch.tensor([[0.4, 1.2]]), Unit(torch.ones(1), 0), "scale")
    moments = torch.tensor([[[2.0, 1.0], [1.0, 1.0]]])
    compensate(codes, moments)
    # Damping adds 0.015 to the diagonal: the share is 1 / 1.015.
    torch.testing.assert_close(codes.latent.detach(), torch.tensor([[0.4, 1.2 + 0.4 / 1.015]]))
    assert codes.symbols().tolist() == [[0, 2]]


def test_without_correlation_nothing_moves() -> None:
    weight = torch.randn(5, 300, generator=torch.Generator().manual_seed(0))
    codes = Codes(weight, Unit(torch.full((5,), 0.3), 0), "edge-scale")
    before = codes.latent.detach().clone()
    compensate(codes, torch.eye(300)[None])
    torch.testing.assert_close(codes.latent.detach(), before)


def test_outputs_are_nearer_than_after_rounding_to_the_nearest() -> None:
    """For inputs that go together, and for each group its own."""
    draws = torch.Generator().manual_seed(0)
    mixing = torch.randn(2, 200, 200, generator=draws) / 10
    inputs = torch.randn(2, 500, 200, generator=draws) @ mixing
    codes = Codes(torch.randn(8, 200, generator=draws), Unit(torch.ones(8), 0), "edge-scale")
    latent = codes.latent.detach().clone()

    def error() -> float:
        change = (codes().detach() - latent).reshape(2, 4, 200)
        return float(((inputs @ change.mT) ** 2).mean())

    nearest = error()
    compensate(codes, inputs.mT @ inputs)
    assert error() < 0.5 * nearest


class Tied(nn.Module):
    """Two layers that read one weight, one that reads its own, and one whose weight something else reads."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(20, 20), nn.Linear(20, 20)
        self.second.weight = self.first.weight
        self.own, self.read = nn.Linear(20, 20), nn.Linear(20, 20)
        self.up = nn.ConvTranspose1d(20, 20, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.second(self.first(x).relu()) + torch.matmul(x, self.read.weight)
        return self.up(self.read(self.own(x))[..., None]).flatten(1)


def test_only_weights_that_one_layer_reads_take_back_errors() -> None:
    graph = capture(nets.model_of(Tied(), 20))
    # a product beside it reads the third in another way, and has a copy of it
    assert list(compensable(graph, codable(graph)).values()) == ["own.weight", "read.weight_as_linear"]


def test_inputs_that_are_never_there_change_nothing() -> None:
    codes: Any = Codes(torch.randn(3, 40), Unit(torch.ones(3), 0), "edge-scale")
    before = codes.latent.detach().clone()
    compensate(codes, torch.zeros(1, 40, 40))
    torch.testing.assert_close(codes.latent.detach(), before)
