"""Weights that are INT8 already: on which of their integers they stay, and graphs that read them plainly."""

from __future__ import annotations

import pytest
import torch
from edgepress.calibration.scheme import QuantScheme
from edgepress.model import Model
from edgepress.passes.graph.capture import capture
from edgepress.passes.graph.operators import get_tensor
from edgepress.passes.lossy.coded import Codes
from edgepress.passes.lossy.integers import Integers, integers_of, read_plainly, settled
from edgepress.passes.quantization.quick import quickly_quantized
from slim_job import trained_cnn
from torch import fx

INTEGERS = Integers(
    torch.tensor([[127, -64, 3, 0], [90, 5, -1, 2]], dtype=torch.int8), torch.tensor([0.1, 0.2]), 0
)


@pytest.mark.parametrize(
    ("wanted", "k", "reach"),
    [
        ([0.05, 0.01], 1, 127),  # finer than the grid: as it is
        ([0.4, 0.8], 4, 31),
        ([0.2, 3.2], 6, 21),  # 2 and 16 steps: about their geometric mean, sqrt(32)
        ([1e3, 1e3], 64, 1),
    ],
)
def test_every_kth_integer_of_all_channels_is_used(wanted: list[float], k: int, reach: int) -> None:
    unit = INTEGERS.unit(torch.tensor(wanted))
    assert unit.values.tolist() == pytest.approx([0.1 * k, 0.2 * k]) and unit.reach == reach


def test_codes_of_integers_decode_to_integers_within_reach() -> None:
    codes = Codes(INTEGERS.weight(), INTEGERS.unit(torch.tensor([0.4, 0.8])), "edge-scale")
    steps = codes().detach() / torch.tensor([[0.1], [0.2]])
    torch.testing.assert_close(steps, torch.tensor([[124.0, -64, 4, 0], [88, 4, 0, 0]]))


def quantized() -> tuple[fx.GraphModule, torch.Tensor]:
    x = torch.randn(4, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    return capture(quickly_quantized(Model(trained_cnn().eval(), (x,)), QuantScheme())), x


def test_a_graph_that_reads_its_integers_plainly_computes_the_same() -> None:
    graph, x = quantized()
    integers = integers_of(graph)
    assert len(integers) == sum(name.startswith("weight_quantizer") for name, _ in graph.named_children())
    for other in (read_plainly(graph, integers), settled(graph, integers)):
        assert torch.equal(other(x), graph(x))
    assert not integers_of(read_plainly(graph, integers))


def test_scales_that_are_settled_stay_when_weights_change() -> None:
    graph, _ = quantized()
    integers = integers_of(graph)
    name, each = next(iter(integers.items()))
    changed = settled(graph, integers)
    get_tensor(changed, name).data.mul_(0.5)
    after = integers_of(changed)[name]
    assert torch.equal(after.scale, each.scale) and int(after.values.abs().max()) <= 64
