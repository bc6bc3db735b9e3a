"""How unlike its teachers a network is: labels, the teachers' outputs and their features, as parts of one loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import CompressError
from ..training.draws import Draws
from .losses import feature_loss, label_loss, mixed_teachers, regression_loss, soft_target_loss
from .taps import Tapped, move
from .task import Task

Found = tuple[tuple[Tensor, ...], tuple[Tensor, ...]]
"""Outputs and features of one batch, as `Tapped` gives them."""


@dataclass(frozen=True)
class Teacher:
    """A trained network, and its weight among the teachers. Only the first one's features are compared."""

    network: Tapped
    weight: float = 1.0


@dataclass(frozen=True)
class Likeness:
    """(1 - λ) · labels + λ · T² KL to the teachers + features (Polino et al. 2018, section 2.3).

    teacher_weight is λ: at 1 labels are not looked at, at 0 no teacher is. Logits are compared by a KL, other
    outputs by their squared error. teacher_dropping, feature_weight: as the options of `distill`.
    """

    teachers: Sequence[Teacher]
    task: Task
    temperature: float = 2.0
    teacher_weight: float = 0.7
    teacher_dropping: float = 0.0
    feature_weight: float = 1.0

    def to(self, device: torch.device) -> None:
        """Move the teachers."""
        for teacher in self.teachers:
            move(teacher.network, device)

    def answers(self, inputs: Sequence[Tensor]) -> list[Found]:
        """What each teacher that is looked at finds in a batch, without gradients: all, the first one or none."""
        first = self.teachers[:1] if self.teachers and self.teachers[0].network.paths else []
        with torch.no_grad():
            return [each.network(*inputs) for each in (self.teachers if self.teacher_weight > 0 else first)]

    def loss(self, found: Found, answers: Sequence[Found], labels: Tensor, draws: Draws) -> dict[str, Tensor]:
        """labels, teacher and features, each weighted, as means over the samples.

        found: of the network that learns, on the batch that `answers` are of. A network with several outputs that are
        each to be like the teachers', such as exits, asks once for each, with the same answers.
        """
        outputs, features = found
        if len(outputs) != len(self.task.variances):
            raise CompressError(
                f"in training the network gives outputs of shapes {[tuple(y.shape) for y in outputs]}, which are"
                f" {len(outputs)}, and {len(self.task.variances)} in evaluation; build it without what it adds to train"
                " (as aux_logits: false of its factory's arguments)"
            )
        parts: dict[str, Tensor] = {}
        if self.teacher_weight < 1:
            parts["labels"] = (1 - self.teacher_weight) * label_loss(
                self.task.as_logits(outputs)[0], labels, self.task.classification, self.task.variances[0]
            ).mean()
        if self.teacher_weight > 0:
            each = [unlikeness(outputs, answer, self.task, self.temperature) for answer, _ in answers]
            weights = [teacher.weight for teacher in self.teachers]
            uniform = draws.uniform("teachers", len(each))
            mixed = mixed_teachers(each, weights, self.teacher_dropping, uniform)
            parts["teacher"] = self.teacher_weight * mixed.mean()
        if features:
            each = [feature_loss(one, other) for one, other in zip(features, answers[0][1], strict=True)]
            parts["features"] = self.feature_weight * torch.stack(each).mean()
        return parts


def unlikeness(
    outputs: Sequence[Tensor], answers: Sequence[Tensor], task: Task, temperature: float
) -> Tensor:
    """How far outputs are from a teacher's, (n,), the mean over all that are numbers: T² KL of logits, else squares."""
    each = [
        soft_target_loss(one, other, temperature)
        if task.classification and one.dim() > 1 and one.shape[1] > 1
        else regression_loss(one, other, variance)
        for one, other, variance in zip(
            task.as_logits(outputs), task.as_logits(answers), task.variances, strict=True
        )
        if one.is_floating_point()
    ]
    return torch.stack(each).mean(0)
