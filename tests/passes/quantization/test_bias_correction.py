"""Bias correction takes the mean shift of rounded weights out of the biases."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from edgepress.passes.graph.capture import capture
from edgepress.passes.graph.folding import ensure_biases
from edgepress.passes.graph.observe import watch
from edgepress.passes.quantization.bias_correction import correct_biases, correctable, geometric_median
from edgepress.passes.quantization.placement import Placement, place
from edgepress.passes.quantization.quantizers import Grid, insert_quantizers, weight_scale
from quantization_nets import Net, model_of
from torch import Tensor, fx, nn


def coarse(module: nn.Module, *shape: int) -> tuple[fx.GraphModule, fx.GraphModule, Placement]:
    """The float graph and one whose weights are rounded to a few steps, so that means shift visibly."""
    graph = capture(model_of(module, *shape))
    ensure_biases(graph, correctable(graph, place(graph)))
    placement = place(graph)
    grids = {name: Grid(0.02) for name in placement.activations}
    state = graph.state_dict()
    scales = {s.tensor: 16 * weight_scale(state[s.tensor], s.axis) for s in placement.weights}
    return graph, insert_quantizers(graph, placement, grids, scales), placement


def means(graph: fx.GraphModule, x: Tensor, axis: int, layers: set[str]) -> dict[str, Tensor]:
    found = {}

    def see(node: fx.Node, value: Tensor) -> Tensor:
        if node.name in layers:
            found[node.name] = value.movedim(axis, 0).flatten(1).mean(1)
        return value

    watch(graph, (x,), see)
    return found


@pytest.mark.parametrize(
    ("module", "shape", "axis"),
    [
        (nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.ReLU(), nn.Conv2d(8, 4, 3)), (3, 8, 8), 1),
        (nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4, bias=False)), (5, 8), -1),
    ],
)
def test_the_mean_shift_of_every_layer_is_gone_on_the_batch(
    module: nn.Module, shape: tuple[int, ...], axis: int
) -> None:
    graph, quantized, placement = coarse(module, *shape)
    x = torch.randn(32, *shape, generator=torch.Generator().manual_seed(0)) + 0.5
    layers = {c.node for c in placement.coverage}
    wanted = means(graph, x, axis, layers)
    shift = {n: float((wanted[n] - m).abs().max()) for n, m in means(quantized, x, axis, layers).items()}
    assert min(shift.values()) > 1e-3

    assert correct_biases(graph, quantized, placement, (x,)) == 2

    left = {n: float((wanted[n] - m).abs().max()) for n, m in means(quantized, x, axis, layers).items()}
    assert max(left.values()) < 1e-5


def test_the_float_graph_is_not_touched() -> None:
    graph, quantized, placement = coarse(nn.Sequential(nn.Linear(4, 4)), 4)
    before = {name: tensor.clone() for name, tensor in graph.state_dict().items()}
    correct_biases(graph, quantized, placement, (torch.randn(8, 4),))
    assert all(torch.equal(before[name], tensor) for name, tensor in graph.state_dict().items())


def test_two_calls_of_one_layer_get_a_bias_each() -> None:
    net = Net(lambda n, x: n.layer(F.relu(n.layer(x)) + 1.0), layer=nn.Linear(6, 6, bias=False))
    graph, quantized, placement = coarse(net, 6)
    x = torch.randn(64, 6, generator=torch.Generator().manual_seed(0)) + 1.0
    layers = {c.node for c in placement.coverage}
    wanted = means(graph, x, -1, layers)
    assert correct_biases(graph, quantized, placement, (x,)) == 2
    got = means(quantized, x, -1, layers)
    assert len(layers) == 2 and all(torch.allclose(wanted[n], got[n], atol=1e-5) for n in layers)


def test_the_median_is_moved_by_no_minority_of_positions() -> None:
    errors = torch.randn(5, 400, generator=torch.Generator().manual_seed(0)) * 0.1 + 1.0
    errors[:, :13] = 500.0  # one token of thirty-two, clipped
    assert float((geometric_median(errors) - 1.0).abs().max()) < 0.1
    assert float(errors.mean(1).min()) > 15.0
