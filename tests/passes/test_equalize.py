"""Equalization keeps the network's outputs and evens out its channels."""

from __future__ import annotations

import pytest
import torch
from edgepress.calibration.scheme import QuantScheme
from edgepress.passes.quantization.capture import capture
from edgepress.passes.quantization.channel_pairs import find_pairs, insert_evening
from edgepress.passes.quantization.equalize import equalize
from edgepress.passes.quantization.observe import watch
from edgepress.progress import Silent
from quantization_nets import Net, largest_difference, model_of, operators
from torch import Tensor, fx, nn

SPREAD = torch.logspace(-2, 2, 8)  # channels that differ by 10,000


def spread_channels(layer: nn.Module) -> nn.Module:
    """Scale output channel j of a layer by SPREAD[j]."""
    with torch.no_grad():
        layer.weight *= SPREAD.reshape(-1, *([1] * (layer.weight.dim() - 1)))
        if layer.bias is not None:
            layer.bias *= SPREAD
    return layer


def channel_maxima(graph: fx.GraphModule, x: Tensor, node_name: str, axis: int) -> Tensor:
    found = {}

    def see(node: fx.Node, value: Tensor) -> Tensor:
        if node.name == node_name:
            found["maxima"] = value.abs().movedim(axis, 0).flatten(1).amax(1)
        return value

    watch(graph, (x,), see)
    return found["maxima"]


def evened_out(graph: fx.GraphModule, *batches: Tensor) -> tuple[list[str], list[str]]:
    """Equalize for INT8 in all layers."""
    layers = [node.name for node in graph.graph.nodes]
    generator = torch.Generator().manual_seed(0)
    return equalize(graph, layers, lambda: [(x,) for x in batches], QuantScheme(), generator, Silent())


EQUALIZED = {
    "convolution, relu, depthwise, convolution": (
        nn.Sequential(
            spread_channels(nn.Conv2d(3, 8, 1)),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, groups=8),
            nn.ReLU(),
            nn.Conv2d(8, 4, 1),
        ),
        (3, 8, 8),
        1,
    ),
    "a norm before the layers that read it": (
        Net(
            lambda n, x: (y := n.norm(x), n.a(y) + n.b(y))[1],
            norm=spread_channels(nn.LayerNorm(8)),
            a=nn.Linear(8, 4),
            b=nn.Linear(8, 4),
        ),
        (5, 8),
        -1,
    ),
    "two linear layers without bias": (
        nn.Sequential(spread_channels(nn.Linear(3, 8, bias=False)), nn.ReLU(), nn.Linear(8, 2)),
        (3,),
        -1,
    ),
}


@pytest.mark.parametrize("case", EQUALIZED)
def test_outputs_stay_and_channels_are_evened_out(case: str) -> None:
    module, shape, axis = EQUALIZED[case]
    graph = capture(model_of(module, *shape))
    x = torch.randn(16, *shape, generator=torch.Generator().manual_seed(0))
    before = graph(x)
    first = find_pairs(graph)[0].shown.name
    maxima = channel_maxima(graph, x, first, axis)

    names, added = evened_out(graph, x)

    assert names[0] == first
    assert added == []
    assert largest_difference(before, graph(x)) < 1e-5
    evened = channel_maxima(graph, x, first, axis)
    assert float(maxima.max() / maxima.min()) > 1_000
    assert float(evened.max() / evened.min()) < float(maxima.max() / maxima.min()) / 10


def mlp(activation: nn.Module, bias: float) -> nn.Module:
    """Two linear layers; the first one's outputs lie around `bias`."""
    net = nn.Sequential(nn.Linear(4, 8), activation, nn.Linear(8, 3))
    nn.init.constant_(net[0].bias, bias)
    return net


def test_gelu_gets_a_shift_of_its_own_that_the_next_bias_gives_back() -> None:
    graph = capture(model_of(mlp(nn.GELU(), -3.0), 4))
    x = torch.randn(16, 4)
    before = graph(x)

    names, added = evened_out(graph, *x.split(1))

    assert names == added
    assert operators(graph) == ["linear", "gelu", "sub", "mul", "linear"]
    assert largest_difference(before, graph(x)) < 1e-5
    # the channels reach as far below zero as above it
    values: dict[str, Tensor] = {}
    watch(graph, (x,), lambda node, value: values.setdefault(node.name, value))
    evened = next(values[node.name] for node in graph.graph.nodes if "mul" in node.name)
    assert torch.allclose(evened.amax(0), -evened.amin(0), rtol=1e-4)


def test_a_norm_is_shifted_in_its_bias() -> None:
    norm = nn.LayerNorm(8)
    with torch.no_grad():
        norm.bias.copy_(10.0 * torch.arange(8))
    graph = capture(model_of(nn.Sequential(norm, nn.Linear(8, 4)), 5, 8))
    x = torch.randn(16, 5, 8)
    before = graph(x)
    names, added = evened_out(graph, *x.split(1))
    assert (names, added) == ([find_pairs(graph)[0].shown.name], [])
    assert operators(graph) == ["layer_norm", "linear"]
    assert largest_difference(before, graph(x)) < 1e-5
    assert float(channel_maxima(graph, x, names[0], -1).max()) < 5.0  # of 70 and more


def test_an_operator_is_only_put_in_where_it_gains_half_a_bit() -> None:
    graph = capture(model_of(mlp(nn.Tanh(), 0.0), 4))  # symmetric already, and all channels alike
    assert evened_out(graph, *torch.randn(16, 4).split(1)) == ([], [])
    assert operators(graph) == ["linear", "tanh", "linear"]


def test_only_what_int8_layers_read_is_evened_out() -> None:
    graph = capture(model_of(mlp(nn.GELU(), -3.0), 4))
    nothing = equalize(
        graph, [], lambda: [(torch.randn(1, 4),)], QuantScheme(), torch.Generator().manual_seed(0), Silent()
    )
    assert nothing == ([], [])


def test_the_operator_that_is_put_in_changes_nothing_until_it_is_filled() -> None:
    graph = capture(model_of(mlp(nn.GELU(), -3.0), 4))
    x = torch.randn(16, 4)
    before = graph(x)
    insert_evening(graph, next(n.name for n in graph.graph.nodes if "gelu" in n.name))
    assert torch.equal(graph(x), before)


UNTOUCHED = {
    "relu6 clips at a fixed value": nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU6(), nn.Conv2d(8, 4, 1)),
    "gelu is not linear in its scale": nn.Sequential(nn.Conv2d(3, 8, 1), nn.GELU(), nn.Conv2d(8, 4, 1)),
    "grouped, but not depthwise": nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 1, groups=2)),
    "also read by an addition": Net(
        lambda n, x: (y := n.a(x), n.b(y) + y)[1], a=nn.Conv2d(3, 8, 1), b=nn.Conv2d(8, 8, 1)
    ),
    "its output is also the network's": Net(
        lambda n, x: (y := n.a(x), (n.b(y), y))[1], a=nn.Conv2d(3, 8, 1), b=nn.Conv2d(8, 8, 1)
    ),
    "the norm is over more than the channels": nn.Sequential(nn.LayerNorm((8, 8)), nn.Linear(8, 4)),
    "the norm has no weights": nn.Sequential(nn.LayerNorm(8, elementwise_affine=False), nn.Linear(8, 4)),
    "one weight for two layers": Net(lambda n, x: n.a(n.a(x)), a=nn.Conv2d(3, 3, 1)),
}


@pytest.mark.parametrize("case", UNTOUCHED)
def test_left_alone_when(case: str) -> None:
    graph = capture(model_of(UNTOUCHED[case], 3, 8, 8))
    assert find_pairs(graph) == []
    assert evened_out(graph) == ([], [])


def test_a_dead_channel_is_left_as_it_is() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    net[0].weight.data[1], net[0].bias.data[1] = 0.0, 0.0
    graph = capture(model_of(net, 3))
    x = torch.randn(8, 3)
    before = graph(x)
    evened_out(graph, x)
    assert torch.isfinite(graph(x)).all()
    assert largest_difference(before, graph(x)) < 1e-5
