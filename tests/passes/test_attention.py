"""Products of attention weights that an 8-bit grid cannot hold stay in float, and say why."""

from __future__ import annotations

import torch
from edgepress.model import Model
from edgepress.passes.quantize import Quantize
from quantization_nets import context_of, model_of, samples
from torch import Tensor, nn

TOKENS, WIDTH = 600, 8


class Attention(nn.Module):
    """One head over tokens that are alike: each gets 1/600 of the weight, less than half a step of 1/127 ..."""

    def __init__(self, sharp: bool) -> None:
        super().__init__()
        self.key, self.value, self.head = (
            nn.Linear(WIDTH, WIDTH),
            nn.Linear(WIDTH, WIDTH),
            nn.Linear(WIDTH, 3),
        )
        self.sharp = sharp

    def forward(self, x: Tensor) -> Tensor:
        query = self.key(x)[:, :1]
        scores = query @ self.key(x).transpose(1, 2)
        if self.sharp:  # ... but for the first: the grid has to reach up to its weight
            first = torch.zeros(1, 1, TOKENS)
            first[..., 0] = 6.0
            scores = scores * 0.1 + first
        return self.head((scores.softmax(-1) @ self.value(x))[:, 0])


def quantized(sharp: bool, **options: float) -> dict[str, str]:
    """The reason beside each layer that stays float."""
    model: Model = model_of(Attention(sharp), TOKENS, WIDTH)
    plan = Quantize(sensitivity_samples=0, **options).plan(model, context_of(samples(8, TOKENS, WIDTH)))  # type: ignore[arg-type]
    return {row["layer"]: row["reason"] for row in plan.details["coverage"] if not row["quantized"]}


def test_a_product_stays_float_when_rounding_its_weights_spoils_the_outputs() -> None:
    ((_, reason),) = quantized(sharp=True).items()
    assert reason.startswith(
        "a softmax over 600 tokens is too fine for an 8-bit grid: rounding it alone leaves the outputs "
    )
    assert reason.endswith(" dB (softmax_sqnr_db: 30)")


def test_the_recipe_sets_how_much_is_too_much() -> None:
    assert quantized(sharp=True, softmax_sqnr_db=0.0) == {}
