"""Products of attention weights that an 8-bit grid cannot hold stay in float, and say why."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from edgepress.calibration.scheme import QuantScheme
from edgepress.model import Model
from edgepress.passes.graph.capture import capture
from edgepress.passes.quantization.attention import softmaxes, too_fine
from edgepress.passes.quantization.placement import factors, place
from edgepress.passes.quantize import Quantize
from quantization_nets import context_of, model_of, samples
from torch import Tensor, nn

TOKENS, WIDTH = 600, 8


class Attention(nn.Module):
    """One query over tokens that are alike; if sharp, but for the first, which gets most of the weight.

    The others have less than half a step of 1/127 each.
    """

    def __init__(self, transposed: bool = False, sharp: bool = True) -> None:
        super().__init__()
        self.key, self.value = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, 3)
        self.transposed, self.sharp = transposed, sharp

    def forward(self, x: Tensor) -> Tensor:
        key, value = self.key(x), self.value(x)
        first = torch.zeros(1, 1, TOKENS)
        first[..., 0] = 6.0 if self.sharp else 0.0
        weights = (0.1 * key[:, :1] @ key.transpose(1, 2) + first).softmax(-1)
        if self.transposed:
            return self.head((value.transpose(1, 2) @ weights.transpose(1, 2))[..., 0])
        return self.head((weights @ value)[:, 0])


def float_layers(net: Attention, **options: float) -> dict[str, str]:
    """The reason beside each layer that stays float."""
    model: Model = model_of(net, TOKENS, WIDTH)
    plan = Quantize(sensitivity_samples=0, **options).plan(model, context_of(samples(8, TOKENS, WIDTH)))  # type: ignore[arg-type]
    return {row["layer"]: row["reason"] for row in plan.details["coverage"] if not row["quantized"]}


@pytest.mark.parametrize("transposed", [False, True])
def test_a_product_stays_float_when_rounding_its_weights_spoils_the_outputs(transposed: bool) -> None:
    ((_, reason),) = float_layers(Attention(transposed)).items()
    assert reason.startswith(
        "a softmax over 600 tokens is too fine for an 8-bit grid: rounding it alone leaves the outputs "
    )
    assert reason.endswith(" dB (softmax_sqnr_db: 30)")


def test_the_recipe_sets_how_much_is_too_much() -> None:
    assert float_layers(Attention(), softmax_sqnr_db=0.0) == {}


def test_a_softmax_that_an_8_bit_grid_can_hold_is_quantized() -> None:
    assert float_layers(Attention(sharp=False)) == {}


def test_a_layer_that_is_called_twice_is_judged_by_its_worse_call() -> None:
    class Product(nn.Module):
        def forward(self, query: Tensor, x: Tensor) -> Tensor:
            return F.scaled_dot_product_attention(query, x, x)

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attend, self.head = Product(), nn.Linear(WIDTH, 3)

        def forward(self, x: Tensor) -> Tensor:
            sharp, flat = self.attend(20 * x[:, :1], x), self.attend(0 * x[:, :1], x)
            return self.head((sharp + flat)[:, 0])

    graph = capture(model_of(Twice(), TOKENS, WIDTH))
    ((layer, nodes),) = softmaxes(graph).items()
    assert len(nodes) == 2
    sqnr = {nodes[0].name: 12.0, nodes[1].name: 50.0}
    (reason,) = too_fine(graph, place(graph), sqnr, 30.0).values()
    assert "leaves the outputs 12 dB" in reason
    assert layer == "attend.values"


@pytest.mark.parametrize("centred", [False, True])
def test_factors_of_two_activations_stand_at_zero_point_zero_where_a_runtime_multiplies_in_int8_only_there(
    centred: bool,
) -> None:
    model = model_of(Attention(sharp=False), TOKENS, WIDTH)
    scheme = QuantScheme(asymmetric=True, centred_products=centred)
    plan = Quantize(sensitivity_samples=0).plan(model, context_of(samples(8, TOKENS, WIDTH), scheme=scheme))
    read, grids = factors(capture(model)), plan.structure["grids"]
    assert len(read) == 4
    assert all(grids[name]["zero_point"] == 0 for name in read) is centred
    assert any(grid["zero_point"] for name, grid in grids.items() if name not in read)
