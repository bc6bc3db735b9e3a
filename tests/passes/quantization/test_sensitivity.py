"""Sensitivity of layers, and the search for the fewest to give back to float."""

from __future__ import annotations

import math

import pytest
import torch
from edgepress.calibration.sqnr import sqnr_db
from edgepress.passes.graph.capture import capture
from edgepress.passes.quantization.placement import place
from edgepress.passes.quantization.quantizers import Grid, insert_quantizers, weight_scale
from edgepress.passes.quantization.sensitivity import fewest_float_layers, measure_sensitivity
from edgepress.progress import Silent
from quantization_nets import model_of
from torch import nn

LAYERS = [f"layer{index}" for index in range(12)]


class Drops:
    """A network whose layers each cost something; counts how often it is measured."""

    def __init__(self, costs: dict[str, float]) -> None:
        self.costs, self.measured = costs, 0

    def __call__(self, kept: frozenset[str]) -> float:
        self.measured += 1
        return sum(cost for layer, cost in self.costs.items() if layer not in kept)


def test_nothing_goes_back_when_the_drop_is_met_already() -> None:
    drops = Drops({"layer3": 0.01})
    assert fewest_float_layers(LAYERS, drops, 0.01) == (frozenset(), {})
    assert drops.measured == 1


def test_a_drop_of_exactly_the_limit_is_met() -> None:
    """0.99 - 0.985 is 0.0050000000000000044."""
    assert fewest_float_layers(LAYERS, lambda kept: 0.99 - 0.985, 0.005) == (frozenset(), {})


@pytest.mark.parametrize(
    "guilty", [["layer0"], ["layer5"], ["layer11"], ["layer1", "layer7"], ["layer0", "layer1", "layer2"]]
)
def test_exactly_the_layers_that_cost_go_back(guilty: list[str]) -> None:
    drops = Drops(dict.fromkeys(guilty, 0.02))
    kept, costs = fewest_float_layers(LAYERS, drops, 0.005)
    assert kept == set(guilty)
    assert costs == pytest.approx(dict.fromkeys(guilty, 0.02))
    assert drops.measured <= 1 + 2 * math.ceil(math.log2(12)) + 12


def test_a_layer_that_the_budget_can_bear_stays_quantized() -> None:
    drops = Drops({"layer0": 0.02, "layer1": 0.004})
    kept, costs = fewest_float_layers(LAYERS, drops, 0.005)
    assert kept == {"layer0"}
    assert costs == pytest.approx({"layer0": 0.024})


def test_all_layers_when_even_that_does_not_meet_the_drop() -> None:
    kept, costs = fewest_float_layers(LAYERS, lambda kept: 0.5, 0.005)
    assert kept == set(LAYERS)
    assert costs == dict.fromkeys(LAYERS, 0.5)


def test_no_layers_at_all() -> None:
    assert fewest_float_layers([], lambda kept: 0.5, 0.005) == (frozenset(), {})


def test_sqnr_of_known_numbers() -> None:
    assert sqnr_db(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 4.5])) == pytest.approx(20.0)  # 25 / 0.25
    assert sqnr_db(torch.ones(3), torch.ones(3)) == 200.0
    assert sqnr_db(torch.zeros(1), torch.ones(1)) < -200.0


def test_the_layer_with_the_coarse_weights_is_the_most_sensitive() -> None:
    net = nn.Sequential(*(nn.Linear(8, 8) for _ in range(4)))
    graph = capture(model_of(net, 8))
    placement = place(graph)
    grids = {name: Grid(0.03) for name in placement.activations}
    scales = {
        s.tensor: weight_scale(net.state_dict()[s.tensor], s.axis) * (40 if s.layer == "2" else 1)
        for s in placement.weights
    }
    quantized = insert_quantizers(graph, placement, grids, scales)
    x = torch.randn(32, 8)
    rounded = quantized(x)
    ranked = measure_sensitivity(quantized, placement, (x,), Silent())
    assert ranked[0].layer == "2"
    assert sorted(r.layer for r in ranked) == ["0", "1", "2", "3"]
    assert [r.sqnr_db for r in ranked] == sorted(r.sqnr_db for r in ranked)
    assert torch.equal(quantized(x), rounded)  # every quantizer is on again
