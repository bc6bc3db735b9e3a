"""Fake quantizers: hand-computed rounding, and the integers that are stored."""

from __future__ import annotations

import pytest
import torch
from edgepress.passes.graph.capture import capture
from edgepress.passes.quantization.deploy import dequantize, quantize_dequantize
from edgepress.passes.quantization.placement import place
from edgepress.passes.quantization.quantizers import (
    ActivationQuantizer,
    Grid,
    WeightQuantizer,
    insert_quantizers,
    quantizers_of,
    stored_bytes,
    weight_scale,
    weight_scales,
)
from quantization_nets import model_of
from torch import nn

ROUNDING = {
    "signed, halves to even": (
        Grid(0.5),
        [0.25, 0.75, -0.25, -0.75, 1.0, 0.3],
        [0.0, 1.0, 0.0, -1.0, 1.0, 0.5],
    ),
    "signed, clamped to -128 and 127": (Grid(0.5), [100.0, -100.0], [63.5, -64.0]),
    # 0.5 * (integer - 10): integers 0 .. 255 are -5 .. 122.5
    "unsigned with a zero point": (
        Grid(0.5, 10, True),
        [-9.0, -5.0, 0.0, 122.6, 500.0],
        [-5.0, -5.0, 0.0, 122.5, 122.5],
    ),
    "halves to even before an odd zero point": (Grid(0.5, 11, True), [0.25, 0.75, -0.25], [0.0, 1.0, 0.0]),
    "unsigned from zero": (Grid(1.0, 0, True), [-3.0, 2.5, 3.5, 300.0], [0.0, 2.0, 4.0, 255.0]),
}


@pytest.mark.parametrize("case", ROUNDING)
def test_activations_are_rounded_as_computed_by_hand(case: str) -> None:
    grid, values, expected = ROUNDING[case]
    assert ActivationQuantizer(grid)(torch.tensor(values)).tolist() == expected


def test_rounding_leaves_what_it_reads_as_it_was() -> None:
    x = torch.tensor([0.3, -0.2])
    ActivationQuantizer(Grid(0.5))(x)
    assert x.tolist() == torch.tensor([0.3, -0.2]).tolist()


@pytest.mark.parametrize("case", ROUNDING)
def test_the_exported_operator_rounds_alike(case: str) -> None:
    grid, values, expected = ROUNDING[case]
    zero_point = torch.tensor(grid.zero_point, dtype=torch.uint8 if grid.unsigned else torch.int8)
    rounded = quantize_dequantize(torch.tensor(values), torch.tensor(grid.scale), zero_point)
    assert rounded.tolist() == expected


def test_a_disabled_quantizer_passes_its_input_on() -> None:
    quantizer, x = ActivationQuantizer(Grid(0.5)), torch.tensor([0.3])
    quantizer.enabled = False
    assert quantizer(x) is x


def test_the_gradient_passes_straight_through_inside_the_range_and_stops_outside() -> None:
    x = torch.tensor([0.3, -0.2, 100.0, -100.0], requires_grad=True)
    ActivationQuantizer(Grid(0.5))(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [1.0, 1.0, 0.0, 0.0]


@pytest.mark.parametrize(("axis", "expected"), [(0, [[127, -64], [32, 127]]), (1, [[127, -2], [127, 127]])])
def test_weights_have_a_scale_per_channel(axis: int, expected: list[list[int]]) -> None:
    weight = {
        0: torch.tensor([[1.27, -0.64], [63.5, 254.0]]),
        1: torch.tensor([[127.0, -2.0], [127.0, 127.0]]),
    }[axis]
    scale = weight_scale(weight, axis)
    assert scale.shape == (2,)
    quantizer = WeightQuantizer(scale, axis)
    integers, _ = quantizer.int8(weight)
    assert integers.dtype == torch.int8
    assert integers.tolist() == expected
    assert torch.equal(quantizer(weight), integers * quantizer.channelwise_scale(weight))


@pytest.mark.parametrize("axis", [0, 1])
def test_the_stored_integers_are_exactly_what_the_network_computed_with(axis: int) -> None:
    weight = torch.randn(6, 5, 3, 3, generator=torch.Generator().manual_seed(0))
    weight[1, 1] = 0.0
    quantizer = WeightQuantizer(weight_scale(weight, axis), axis)
    integers, _ = quantizer.int8(weight)
    assert int(integers.min()) >= -127
    assert torch.equal(quantizer(weight), dequantize(integers, quantizer.scale, axis))
    assert (
        float((quantizer(weight) - weight).detach().abs().max()) <= float(quantizer.scale.max()) / 2 * 1.001
    )


def test_a_channel_of_zeros_gets_a_scale_that_runtimes_can_multiply() -> None:
    assert weight_scale(torch.tensor([[1.27, 0.0], [0.0, 0.0]]), 0).tolist() == pytest.approx([0.01, 0.01])
    assert weight_scale(torch.zeros(2, 3), 0).tolist() == [1.0, 1.0]


def test_scales_are_wide_enough_for_the_bias_as_an_int32() -> None:
    net = nn.Sequential(nn.Conv2d(1, 3, 1))
    net[0].weight.data = torch.tensor([1.27, 1e-12, 1e-12]).reshape(3, 1, 1, 1)
    net[0].bias.data = torch.tensor([100.0, 8.0, 0.0])
    graph = capture(model_of(net, 1, 4, 4))
    placement = place(graph)
    grids = {name: Grid(0.5) for name in placement.activations}
    scales = weight_scales(graph, placement, grids)["0.weight"]
    # 0.01 holds the bias; 8 / (2^30 * 0.5) is the least for the second; the third, without one, keeps its own
    assert scales.tolist() == pytest.approx([0.01, 8 / (2**30 * 0.5), 1e-12 / 127])


def test_each_tensor_is_rounded_once_and_the_output_never() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1))
    graph = capture(model_of(net, 3, 4, 4))
    placement = place(graph)
    grids = {name: Grid(0.05) for name in placement.activations}
    scales = {s.tensor: weight_scale(net.state_dict()[s.tensor], s.axis) for s in placement.weights}
    quantized = insert_quantizers(graph, placement, grids, scales)
    assert sorted(quantizers_of(quantized)) == [
        "activation_quantizer_0",
        "activation_quantizer_1",
        "weight_quantizer_0",
        "weight_quantizer_1",
    ]
    assert not quantizers_of(graph)  # the graph it was made from is not touched
    x = torch.randn(2, 3, 4, 4)
    rounding = ActivationQuantizer(Grid(0.05))
    by_hand = rounding(x)
    for layer, after in ((net[0], lambda y: rounding(torch.relu(y))), (net[2], lambda y: y)):
        weight = WeightQuantizer(weight_scale(layer.weight.detach(), 0), 0)(layer.weight)
        by_hand = after(torch.conv2d(by_hand, weight, layer.bias))
    assert torch.allclose(quantized(x), by_hand, atol=1e-6)
    # int8 weights 12 + 8, a float scale a channel 4 * (4 + 2), float biases 4 * (4 + 2)
    assert stored_bytes(quantized) == 12 + 8 + 24 + 24
