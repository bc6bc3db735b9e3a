"""Channels of few bits are fitted to their float outputs by a line."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from edgepress.passes.graph.capture import capture
from edgepress.passes.graph.folding import ensure_biases
from edgepress.passes.graph.observe import watch
from edgepress.passes.graph.operators import get_tensor
from edgepress.passes.quantization.bias_correction import correctable
from edgepress.passes.quantization.channel_fit import _sampled, fit_channels, line
from edgepress.passes.quantization.placement import Placement, place
from edgepress.passes.quantization.quantizers import (
    Grid,
    WeightQuantizer,
    insert_quantizers,
    weight_quantizers_of,
    weight_scale,
)
from edgepress.passes.quantization.rebuild import WeightSpec, weight_quantizers
from quantization_nets import Net, model_of
from torch import Tensor, fx, nn


class TestLine:
    def test_of_values_that_lie_on_one(self) -> None:
        slope, shift = line(torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([[1.0, 3.0, 5.0]]))
        assert (slope.tolist(), shift.tolist()) == ([2.0], [1.0])

    def test_of_least_squares(self) -> None:
        # z = 0, 0, 1, 1 and y = 0, 2, 2, 4: the means 1 and 3 lie on y = 2 z + 1.
        slope, shift = line(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([[0.0, 2.0, 2.0, 4.0]]))
        assert (slope.tolist(), shift.tolist()) == ([2.0], [1.0])

    @pytest.mark.parametrize(
        ("z", "slope"),
        [
            pytest.param([3.0, 3.0], 1.0, id="a channel that does not vary is only shifted"),
            pytest.param([0.0, 100.0], 0.2, id="a slope is held within bounds"),
        ],
    )
    def test_what_it_leaves_alone(self, z: list[float], slope: float) -> None:
        found, shift = line(torch.tensor([z]), torch.tensor([[1.0, 2.0]]))
        assert found.item() == pytest.approx(slope)
        assert shift.item() == pytest.approx(1.5 - slope * sum(z) / 2)

    def test_without_a_slope_only_the_mean_is_corrected(self) -> None:
        slope, shift = line(torch.tensor([[0.0, 1.0]]), torch.tensor([[0.0, 4.0]]), sloped=False)
        assert (slope.tolist(), shift.tolist()) == ([1.0], [1.5])


def rounded(
    module: nn.Module, spec: WeightSpec, *shape: int
) -> tuple[fx.GraphModule, fx.GraphModule, Placement]:
    graph = capture(model_of(module, *shape))
    ensure_biases(graph, correctable(graph, place(graph)))
    placement = place(graph)
    grids = {name: Grid(0.02) for name in placement.activations}
    state = graph.state_dict()
    specs = {s.tensor: spec for s in placement.weights}
    scales = {s.tensor: weight_scale(state[s.tensor], s.axis) for s in placement.weights}
    if spec != WeightSpec():
        scales = {name: torch.zeros_like(scale) for name, scale in scales.items()}
    make = weight_quantizers(specs, {}, 127)
    return graph, insert_quantizers(graph, placement, grids, scales, make), placement


def errors(graph: fx.GraphModule, quantized: fx.GraphModule, x: Tensor) -> list[float]:
    """The squared error of each layer's outputs."""
    seen: list[dict[str, Tensor]] = [{}, {}]
    for found, network in zip(seen, (graph, quantized), strict=True):

        def see(node: fx.Node, value: Tensor, found: dict[str, Tensor] = found) -> Tensor:
            if node.name.startswith(("conv", "linear")):
                found[node.name] = value
            return value

        watch(network, (x,), see)
    return [float(((seen[1][name] - y) ** 2).sum()) for name, y in seen[0].items()]


TWO_BITS = WeightSpec(bits=2)


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.ReLU(), nn.Conv2d(8, 4, 3)), (3, 8, 8)),
        (nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.ReLU(), nn.Conv2d(4, 4, 1)), (4, 8, 8)),
        (nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4, bias=False)), (8,)),
    ],
    ids=["convolutions", "depthwise", "linear"],
)
def test_every_layer_comes_closer_to_its_float_outputs(module: nn.Module, shape: tuple[int, ...]) -> None:
    graph, quantized, placement = rounded(module, TWO_BITS, *shape)
    x = torch.randn(64, *shape, generator=torch.Generator().manual_seed(0)) + 0.5
    before = errors(graph, quantized, x)
    assert fit_channels(graph, quantized, placement, (x,)) == 2
    after = errors(graph, quantized, x)
    assert all(now < was for now, was in zip(after, before, strict=True))


def test_the_float_graph_is_not_touched() -> None:
    graph, quantized, placement = rounded(nn.Sequential(nn.Linear(4, 4)), TWO_BITS, 4)
    before = {name: tensor.clone() for name, tensor in graph.state_dict().items()}
    fit_channels(graph, quantized, placement, (torch.randn(8, 4),))
    assert all(torch.equal(before[name], tensor) for name, tensor in graph.state_dict().items())


@pytest.mark.parametrize(
    ("net", "spec"),
    [
        pytest.param(
            Net(lambda n, x: n.layer(F.relu(n.layer(x)) + 1.0), layer=nn.Linear(6, 6)),
            TWO_BITS,
            id="two layers read the weight",
        ),
        pytest.param(
            nn.Sequential(nn.Linear(6, 6)), WeightSpec(2, bucket=12), id="a scale for two channels at once"
        ),
    ],
)
def test_weights_that_it_must_not_scale(net: nn.Module, spec: WeightSpec) -> None:
    graph, quantized, placement = rounded(net, spec, 6)
    weights = {site.tensor for site in placement.weights}
    before = {name: t.clone() for name, t in quantized.state_dict().items()}
    fit_channels(graph, quantized, placement, (torch.randn(64, 6) + 1,))
    changed = {name for name, t in quantized.state_dict().items() if not torch.equal(before[name], t)}
    assert changed and not changed & weights


def test_eight_bit_weights_keep_their_integers() -> None:
    """Their scales are tensors of their own, and follow the slope: nothing is clipped or rounded anew."""
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    graph, quantized, placement = rounded(module, WeightSpec(), 3, 8, 8)
    quantizers = weight_quantizers_of(quantized)
    assert [type(q) for q in quantizers.values()] == [WeightQuantizer] * 2
    for quantizer in quantizers.values():
        quantizer.scale.data.mul_(12)  # coarse, so that there is something to fit
    x = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(0)) + 0.5
    before = {name: q.int8(get_tensor(quantized, name)) for name, q in quantizers.items()}
    fit_channels(graph, quantized, placement, (x,))
    for name, (integers, scale) in before.items():
        now, new_scale = quantizers[name].int8(get_tensor(quantized, name))
        assert (now - integers).abs().max() <= 1  # a tie may fall to the other side
        assert not torch.equal(new_scale, scale)


def test_a_scale_that_a_bias_asked_for_does_not_shrink() -> None:
    z, y = torch.tensor([[0.0, 1.0]]), torch.tensor([[0.0, 0.4]])
    slope, shift = line(z, y, least=torch.tensor([0.8]))
    assert slope.item() == pytest.approx(0.8)
    assert shift.item() == pytest.approx(0.2 - 0.8 * 0.5)  # the means still agree


def test_maps_larger_than_float_counts() -> None:
    """float32 counts whole numbers up to 2^24 only."""
    layer = next(n for n in capture(model_of(nn.Conv2d(1, 1, 1), 1, 4, 4)).graph.nodes if "conv" in n.name)
    huge = torch.zeros((), dtype=torch.int8).expand(1, 1, 4344, 4344)
    assert _sampled(layer, huge).shape == (1, 8192)
