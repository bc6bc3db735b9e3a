"""The objective of distillation: labels, the teachers' outputs and their features, as one loss."""

from __future__ import annotations

from collections.abc import Sequence
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
from ..teaching.losses import feature_loss, label_loss, mixed_teachers, regression_loss, soft_target_loss
from ..teaching.taps import Tapped, move
from ..teaching.task import Task
from ..training.draws import Draws
from ..training.job import Forward, Group

Learns = Literal["weights", "points"]
LEAST_RANGE = 0.05  # of the calibrated one


@dataclass(frozen=True)
class Teacher:
    """A trained network, and its weight among the teachers. Only the first one's features are compared."""

    network: Tapped
    weight: float = 1.0


@dataclass
class Distillation:
    """(1 - λ) · labels + λ · T² KL to the teachers + features (Polino et al. 2018, section 2.3).

    teacher_weight is λ: at 1 labels are not looked at, at 0 no teacher is. Logits are compared by a KL, other
    outputs by their squared error. learns: the weights and biases, or only the points that stand for weights.
    range_lr: factor on the learning rate of activation ranges, relative to their size; 0 leaves them as calibrated.
    live: whether the network is an ordinary one, with BatchNorm and dropout, and not a captured graph.
    """

    network: Tapped
    teachers: Sequence[Teacher]
    task: Task
    temperature: float = 2.0
    teacher_weight: float = 0.7
    teacher_dropping: float = 0.0
    feature_weight: float = 1.0
    stochastic: bool = False
    learns: Learns = "weights"
    range_lr: float = 0.0
    live: bool = False

    def groups(self) -> list[Group]:
        """The parameters that learn; all others are told to need no gradient."""
        scales = _scales(self.network)
        own = {id(p) for m in quantizers_of(self.network).values() for p in m.parameters()}
        if self.learns == "points":
            groups = [Group(_points(self.network), decay=False)]
        else:
            rest = [p for p in self.network.parameters() if id(p) not in own]
            groups = [
                Group([p for p in rest if p.dim() > 1]),
                Group([p for p in rest if p.dim() <= 1], decay=False),
            ]
        if self.range_lr:
            # A step of AdamW has the size of its rate, and scales differ by orders of magnitude.
            groups += [Group([s], self.range_lr * float(s.detach()), decay=False) for s in scales]
        groups = [group for group in groups if group.parameters]
        learning = {id(p) for group in groups for p in group.parameters}
        for parameter in self.network.parameters():
            parameter.requires_grad_(id(parameter) in learning)
        return groups

    def to(self, device: torch.device) -> None:
        """Move student and teachers."""
        for module in (self.network, *(teacher.network for teacher in self.teachers)):
            move(module, device)

    def training(self, on: bool) -> None:
        """BatchNorm and dropout of an ordinary network; a captured graph has neither, and rounds to nearest."""
        self.network.train(on and self.live)
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
        """labels, teacher and features, each weighted, as means over the samples."""
        if self.stochastic:
            for index, quantizer in enumerate(self._rounded()):
                quantizer.draws = draws.shared(f"rounding/{index}")
        outputs, features = forward(*inputs)
        with torch.no_grad():
            heard = self.teachers if self.teacher_weight > 0 else self.teachers[:1] if features else []
            answers = [teacher.network(*inputs) for teacher in heard]
        parts: dict[str, Tensor] = {}
        if self.teacher_weight < 1:
            parts["labels"] = (1 - self.teacher_weight) * label_loss(
                outputs[0], labels, self.task.classification, self.task.variances[0]
            ).mean()
        if self.teacher_weight > 0:
            each = [self._to_teacher(outputs, answer) for answer, _ in answers]
            weights = [teacher.weight for teacher in self.teachers]
            uniform = draws.uniform("teachers", len(each))
            mixed = mixed_teachers(each, weights, self.teacher_dropping, uniform)
            parts["teacher"] = self.teacher_weight * mixed.mean()
        if features:
            each = [feature_loss(one, other) for one, other in zip(features, answers[0][1], strict=True)]
            parts["features"] = self.feature_weight * torch.stack(each).mean()
        return parts

    def _to_teacher(self, outputs: Sequence[Tensor], answers: Sequence[Tensor]) -> Tensor:
        """The loss to one teacher, (n,), over all outputs that are numbers."""
        each = [
            soft_target_loss(one, other, self.temperature)
            if self.task.classification and one.dim() > 1 and one.shape[1] > 1
            else regression_loss(one, other, variance)
            for one, other, variance in zip(outputs, answers, self.task.variances, strict=True)
            if one.is_floating_point()
        ]
        return torch.stack(each).mean(0)


def _scales(network: nn.Module) -> list[nn.Parameter]:
    """The scales of activations."""
    return [m.scale for m in network.modules() if isinstance(m, ActivationQuantizer)]


def _points(network: nn.Module) -> list[nn.Parameter]:
    return [m.points for m in network.modules() if isinstance(m, LearnedWeights)]
