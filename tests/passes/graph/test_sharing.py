"""One weight that unlike layers read: each kind gets scales along its own axis, one kind goes on sharing."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from edgepress.calibration.sqnr import sqnr_db
from edgepress.passes.graph.capture import capture
from edgepress.passes.quantize import Quantize
from quantization_nets import Net, context_of, model_of, samples
from torch import nn

SIZES = torch.logspace(-1.5, 0.5, 6)  # of channels along one axis, which scales along the other lose

TIED = {
    "conv and transposed conv": (
        lambda n, x: F.conv_transpose2d(F.relu(n.w(x)), n.w.weight, padding=1),
        nn.Conv2d(6, 4, 3, padding=1),
        (6, 8, 8),
        ["w", "w.as_transposed_conv"],
    ),
    "linear and matmul": (
        lambda n, x: F.relu(n.w(x)) @ n.w.weight,
        nn.Linear(6, 6),
        (5, 6),
        ["w", "w.as_right_matrix"],
    ),
    "linear and its transpose": (
        lambda n, x: F.linear(F.relu(n.w(x)), n.w.weight.t()),
        nn.Linear(6, 6),
        (5, 6),
        ["w", "folded_t"],
    ),
    "either side of a product": (
        lambda n, x: n.w.weight @ F.relu(x @ n.w.weight),
        nn.Linear(6, 6),
        (6, 6),
        ["w", "w.as_left_matrix"],
    ),
}


@pytest.mark.parametrize("case", TIED)
def test_each_reader_has_its_own_axis(case: str) -> None:
    forward, layer, shape, names = TIED[case]
    torch.manual_seed(0)
    layer.reset_parameters()
    with torch.no_grad():
        layer.weight.mul_(SIZES.reshape(1, 6, *([1] * (layer.weight.dim() - 2))))
    model = model_of(Net(forward, w=layer), *shape)
    result = Quantize(sensitivity_samples=0).apply(model, context_of(samples(24, *shape)))
    rows = result.plan.details["coverage"]
    assert [row["layer"] for row in rows] == names
    assert all(row["quantized"] for row in rows)
    (x,), _ = next(samples(24, *shape).batches(24))  # no other ones, some of which ranges would cut off
    # one 8-bit rounding of weights and activations a layer; the other's axis would leave some 15 dB
    assert sqnr_db(model.run(x)[0], result.model.run(x)[0]) > 25.0


def test_readers_of_one_kind_go_on_sharing() -> None:
    net = Net(lambda n, x: n.w(F.relu(n.w(x))), w=nn.Linear(6, 6))
    assert [name for name, _ in capture(model_of(net, 6)).named_parameters()] == ["w.weight", "w.bias"]


def test_a_tied_embedding_and_head_go_on_sharing() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(9, 6)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.linear(self.embed(x), self.embed.weight)

    model = model_of(Tied(), 4)
    model = type(model)(model.module, (torch.zeros(1, 4, dtype=torch.long),))
    assert [name for name, _ in capture(model).named_parameters()] == ["embed.weight"]
