"""Equalization keeps the network's outputs and evens out its channels."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from edgepress.calibration.scheme import QuantScheme
from edgepress.errors import CompressError
from edgepress.passes.graph.capture import capture
from edgepress.passes.graph.observe import watch
from edgepress.passes.quantization.equalize import Equalized, equalize
from edgepress.passes.quantization.rescale import find_rescalable, insert_rescaling
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


def equalized(graph: fx.GraphModule, *batches: Tensor) -> Equalized:
    """Equalize for INT8 in all layers."""
    every = [node.name for node in graph.graph.nodes]
    return equalized_for(every, graph, *batches)


def equalized_for(int8_nodes: list[str], graph: fx.GraphModule, *batches: Tensor) -> Equalized:
    def stream() -> list[tuple[Tensor, ...]]:
        return [(x,) for x in batches]

    generator = torch.Generator().manual_seed(0)
    return equalize(graph, int8_nodes, stream, stream, QuantScheme(), generator, Silent(), "quantize")


NOTHING = Equalized()


torch.manual_seed(0)  # the networks below are made at import, after whatever was imported before
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
        2,
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
        1,
    ),
    "two linear layers without bias": (
        nn.Sequential(spread_channels(nn.Linear(3, 8, bias=False)), nn.ReLU(), nn.Linear(8, 2)),
        (3,),
        -1,
        1,
    ),
}


@pytest.mark.parametrize("case", EQUALIZED)
def test_outputs_stay_and_channels_are_evened_out(case: str) -> None:
    module, shape, axis, count = EQUALIZED[case]
    graph = capture(model_of(module, *shape))
    x = torch.randn(16, *shape, generator=torch.Generator().manual_seed(0))
    before = graph(x)
    first = find_rescalable(graph)[0].node.name
    maxima = channel_maxima(graph, x, first, axis)

    found = equalized(graph, x)

    assert found.tensors[0] == first
    assert len(found.tensors) == count
    assert found.with_operator == ()
    assert largest_difference(before, graph(x)) < 1e-5
    evened = channel_maxima(graph, x, first, axis)
    assert float(maxima.max() / maxima.min()) > 1_000
    # of the strengths, a half at least of the spread (in decades) goes into the reader's weights, which are alike
    assert float(evened.max() / evened.min()) < float(maxima.max() / maxima.min()) ** 0.5 * 3


def mlp(activation: nn.Module, bias: float) -> nn.Module:
    """Two linear layers; the first one's outputs lie around `bias`."""
    net = nn.Sequential(nn.Linear(4, 8), activation, nn.Linear(8, 3))
    nn.init.constant_(net[0].bias, bias)
    return net


def test_gelu_gets_a_shift_of_its_own_that_the_next_bias_gives_back() -> None:
    graph = capture(model_of(mlp(nn.GELU(), -3.0), 4))
    x = torch.randn(16, 4)
    before = graph(x)

    found = equalized(graph, *x.split(1))

    assert found.tensors == found.with_operator
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
    found = equalized(graph, *x.split(1))
    assert found == Equalized((find_rescalable(graph)[0].node.name,))
    assert operators(graph) == ["layer_norm", "linear"]
    assert largest_difference(before, graph(x)) < 1e-5
    assert float(channel_maxima(graph, x, found.tensors[0], -1).max()) < 5.0  # of 70 and more


def test_an_operator_is_only_put_in_where_it_gains_half_a_bit() -> None:
    graph = capture(model_of(mlp(nn.Tanh(), 0.0), 4))  # symmetric already, and all channels alike
    assert equalized(graph, *torch.randn(16, 4).split(1)) == NOTHING
    assert operators(graph) == ["linear", "tanh", "linear"]


def test_only_what_int8_layers_read_is_evened_out() -> None:
    graph = capture(model_of(mlp(nn.GELU(), -3.0), 4))
    assert equalized_for([], graph, torch.randn(1, 4)) == NOTHING


def test_the_operator_that_is_put_in_changes_nothing_until_it_is_filled() -> None:
    graph = capture(model_of(mlp(nn.GELU(), -3.0), 4))
    x = torch.randn(16, 4)
    before = graph(x)
    insert_rescaling(graph, next(n.name for n in graph.graph.nodes if "gelu" in n.name))
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
    assert find_rescalable(graph) == []
    assert equalized(graph) == NOTHING


class BiasOnly(nn.Module):
    """A norm that only shifts, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.bias, self.head = nn.Parameter(10.0 * torch.arange(8)), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.layer_norm(x, (8,), None, self.bias))


def test_a_norm_without_a_factor_is_left_alone() -> None:
    assert find_rescalable(capture(model_of(BiasOnly(), 8))) == []


@pytest.mark.parametrize(
    "net",
    [
        nn.Sequential(spread_channels(nn.LayerNorm(8)), nn.ReLU(), nn.Linear(8, 4)),
        nn.Sequential(spread_channels(nn.Linear(3, 8)), nn.ReLU(), nn.ReLU(), nn.Linear(8, 4)),
    ],
)
def test_a_relu_leaves_the_change_to_the_layer_before_it(net: nn.Module) -> None:
    graph = capture(model_of(net, 8 if isinstance(net[0], nn.LayerNorm) else 3))
    (tensor,) = find_rescalable(graph)
    assert tensor.producer is not None
    assert "relu" in tensor.node.name


def test_a_network_may_have_tensors_of_any_name() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mlp, self.gelu_shift, self.gelu_factor = (
                mlp(nn.GELU(), -3.0),
                nn.Parameter(torch.full((3,), 7.0)),
                nn.Linear(3, 3),
            )

        def forward(self, x: Tensor) -> Tensor:
            return self.gelu_factor(self.mlp(x) + self.gelu_shift)

    graph = capture(model_of(Named(), 4))
    x = torch.randn(16, 4)
    before = graph(x)
    assert len(equalized(graph, *x.split(1)).with_operator) == 1
    assert largest_difference(before, graph(x)) < 1e-5


def test_a_network_that_takes_the_batch_axis_away_is_equalized_too() -> None:
    net = Net(
        lambda n, x: n.b(F.relu(n.a(x[0])))[None],
        a=spread_channels(nn.Conv2d(3, 8, 1)),
        b=nn.Conv2d(8, 4, 1),
    )
    graph = capture(model_of(net, 3, 6, 5, dynamic_batch=False))
    x = torch.randn(1, 3, 6, 5)
    before = graph(x)
    assert len(equalized(graph, x).tensors) == 1
    assert largest_difference(before, graph(x)) < 1e-5


def test_a_tensor_that_is_not_finite_is_named() -> None:
    graph = capture(model_of(mlp(nn.GELU(), 0.0), 4))
    with pytest.raises(CompressError) as caught:
        equalized(graph, torch.full((1, 4), torch.inf))
    assert str(caught.value) == (
        "quantize: tensor 'gelu' in 1 holds NaN or infinite values on the calibration data, which no INT8 grid can"
        " hold; check the preprocessing of the data, or keep the layers that read it in float (keep_float)"
    )


def test_a_dead_channel_is_left_as_it_is() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    net[0].weight.data[1], net[0].bias.data[1] = 0.0, 0.0
    graph = capture(model_of(net, 3))
    x = torch.randn(8, 3)
    before = graph(x)
    equalized(graph, x)
    assert torch.isfinite(graph(x)).all()
    assert largest_difference(before, graph(x)) < 1e-5
