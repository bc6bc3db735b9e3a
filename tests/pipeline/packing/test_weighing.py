"""What a model takes as a file: the same from a graph that was exported before as from an export of its own."""

from __future__ import annotations

import pytest
import torch
from edgepress.form import Form
from edgepress.model import Model
from edgepress.passes.graph.capture import capture
from edgepress.pipeline import export as exporting
from edgepress.pipeline.packing.weighing import Weighing
from torch import nn


class Net(nn.Module):
    """A convolution, a layer normalization and two linear layers of one width."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv, self.norm = nn.Conv2d(1, 8, 3), nn.LayerNorm(8)
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        nn.init.normal_(self.norm.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(self.norm(self.conv(x).mean((2, 3)))))


def model(seed: int) -> Model:
    found = Model(Net(seed).eval(), (torch.randn(1, 1, 6, 6),), ("input",), ("logits",))
    return found.successor(capture(found), Form.GRAPH)


@pytest.fixture
def exports(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts the exports."""
    counted: list[int] = []
    original = exporting.to_program

    def counting(*args: object) -> object:
        counted.append(1)
        return original(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(exporting, "to_program", counting)
    return counted


def test_one_export_serves_networks_that_differ_in_their_weights(exports: list[int]) -> None:
    weighing = Weighing()
    found = [weighing(model(seed)) for seed in (0, 1, 2)]
    assert len(exports) == 1
    assert found == [Weighing()(model(seed)) for seed in (0, 1, 2)]
    assert len(set(found)) > 1  # or the test could not tell them apart


def test_a_graph_that_merges_equal_tensors_serves_no_other_weights(exports: list[int]) -> None:
    def merging(seed: int) -> Model:
        net = Net(seed).eval()
        net.first.bias.data.copy_(net.norm.bias.data)
        found = Model(net, (torch.randn(1, 1, 6, 6),), ("input",), ("logits",))
        return found.successor(capture(found), Form.GRAPH)

    weighing = Weighing()
    merged = weighing(merging(0))
    assert weighing(model(0)) > merged
    assert len(exports) == 2


@pytest.mark.parametrize("name", ["norm", "first"])
def test_of_merged_tensors_either_may_change(exports: list[int], name: str) -> None:
    def network(changes: bool) -> Model:
        net = Net(0).eval()
        net.first.bias.data.copy_(net.norm.bias.data)
        if changes:
            net.get_submodule(name).bias.data.add_(1)
        found = Model(net, (torch.randn(1, 1, 6, 6),), ("input",), ("logits",))
        return found.successor(capture(found), Form.GRAPH)

    weighing = Weighing()
    weighing(network(changes=False))
    assert weighing(network(changes=True)) == Weighing()(network(changes=True))
    assert len(exports) == 3


def test_another_network_is_exported_anew(exports: list[int]) -> None:
    weighing = Weighing()
    weighing(model(0))
    wider = Model(nn.Linear(4, 8).eval(), (torch.randn(1, 4),), ("input",), ("logits",))
    size = weighing(wider.successor(capture(wider), Form.GRAPH))
    assert len(exports) == 2
    assert size == Weighing()(wider.successor(capture(wider), Form.GRAPH))


def test_a_graph_that_merges_tensors_serves_networks_in_which_these_are_the_same(exports: list[int]) -> None:
    """As biases that are all zero are, while its weights change."""

    def changed(seed: int) -> Model:
        net = Net(0).eval()
        net.first.bias.data.copy_(net.norm.bias.data)
        torch.manual_seed(seed)
        nn.init.normal_(net.conv.weight)
        found = Model(net, (torch.randn(1, 1, 6, 6),), ("input",), ("logits",))
        return found.successor(capture(found), Form.GRAPH)

    weighing = Weighing()
    found = [weighing(changed(seed)) for seed in (1, 2, 3)]
    assert len(exports) == 1
    assert found == [Weighing()(changed(seed)) for seed in (1, 2, 3)]
