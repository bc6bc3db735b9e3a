"""The objective of `distill`: likeness to the teachers, with quantizers in the network that learn along."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, fx, nn

from ..graph.operators import get_tensor
from ..quantization.bucket_quantizers import LearnedWeights, UniformWeights
from ..quantization.quantizers import (
    ActivationQuantizer,
    WeightQuantizer,
    quantizers_of,
    weight_quantizers_of,
    weight_scale,
)
from ..teaching.taught import Taught
from ..training.draws import Draws
from ..training.job import Forward, Group, by_decay

Learns = Literal["weights", "points"]
LEAST_RANGE = 0.05  # of the calibrated one


@dataclass
class Distillation(Taught):
    """To be like the teachers with quantizers in the network, if there are any, which learn along.

    learns: the weights and biases, or only the points that stand for weights. stochastic: how weights of fewer than
    8 bits are rounded. range_lr: factor on the learning rate of activation ranges, relative to their size; 0 leaves
    them as calibrated.
    """

    stochastic: bool = False
    learns: Learns = "weights"
    range_lr: float = 0.0

    def groups(self) -> list[Group]:
        """Points, or weights and vectors; and the ranges of activations."""
        scales = _scales(self.network)
        own = {id(p) for m in quantizers_of(self.network).values() for p in m.parameters()}
        if self.learns == "points":
            groups = [Group(_points(self.network), decay=False)]
        else:
            groups = by_decay(p for p in self.network.parameters() if id(p) not in own)
        if self.range_lr:
            # A step of AdamW has the size of its rate, and scales differ by orders of magnitude.
            groups += [Group([s], self.range_lr * float(s.detach()), decay=False) for s in scales]
        return groups

    def training(self, on: bool) -> None:
        """Round to nearest until a step draws otherwise, and keep scales fit for what was learned."""
        super().training(on)
        for quantizer in self._rounded():
            quantizer.draws = None
        self._follow_weights()
        for module in self.network.modules():
            if isinstance(module, ActivationQuantizer):
                # A range that learns must not vanish, or turn round.
                module.scale.data.clamp_(min=LEAST_RANGE * module.grid.scale)

    def _rounded(self) -> list[UniformWeights]:
        return [m for m in self.network.modules() if isinstance(m, UniformWeights)]

    def _follow_weights(self) -> None:
        """Give 8-bit weights the scales that they now need; narrower ones would clip what has grown."""
        graph = self.network.network
        if not isinstance(graph, fx.GraphModule):
            return
        for name, quantizer in weight_quantizers_of(graph).items():
            if isinstance(quantizer, WeightQuantizer):
                now = weight_scale(get_tensor(graph, name), quantizer.axis, quantizer.limit)
                quantizer.scale.data.copy_(torch.maximum(now, quantizer.least))

    def loss(
        self, forward: Forward, inputs: tuple[Tensor, ...], labels: Tensor, draws: Draws
    ) -> dict[str, Tensor]:
        """labels, teacher and features, of a network whose weights are rounded by this step's draws."""
        if self.stochastic:
            for index, quantizer in enumerate(self._rounded()):
                quantizer.draws = draws.shared(f"rounding/{index}")
        return super().loss(forward, inputs, labels, draws)


def _scales(network: nn.Module) -> list[nn.Parameter]:
    """The scales of activations."""
    return [m.scale for m in network.modules() if isinstance(m, ActivationQuantizer)]


def _points(network: nn.Module) -> list[nn.Parameter]:
    return [m.points for m in network.modules() if isinstance(m, LearnedWeights)]
