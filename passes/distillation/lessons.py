"""What every phase of `distill` learns from: the network's task, its teachers, and the features that are matched."""

from __future__ import annotations

from functools import cached_property

from torch import nn

from ...model import Model
from ..base import PassContext
from ..teaching.features import pair
from ..teaching.likeness import Likeness, Teacher
from ..teaching.taps import Tapped, frozen
from ..teaching.task import TASK_SAMPLES, first_batch, read_task, require_like
from .objective import Distillation, Learns
from .options import DistillOptions

RANGE_LR: dict[Learns, float] = {"weights": 10.0, "points": 0.1}
"""Activation ranges move by up to so many learning rates of their own size a step, beside weights or points, whose
rates differ as much: by 0.1 % at their defaults."""


class Lessons:
    """The trained network's task and outputs, and what a student of it is to be like."""

    def __init__(
        self, options: DistillOptions, model: Model, context: PassContext, static_batch: int | None
    ) -> None:
        self.options, self.context, self.static_batch = options, context, static_batch
        self.inputs, labels = first_batch(context.data.calibration, TASK_SAMPLES, static_batch)
        self.outputs = model.run(*self.inputs)
        used_by = options.name if options.teacher_weight < 1 else None
        self.task = read_task(self.outputs, labels, used_by)

    def require_like(self, other: Model, who: str) -> None:
        """Raise CompressError when a student or teacher gives outputs of other shapes than the network."""
        require_like(other.run(*self.inputs), self.outputs, who)

    def objective(
        self, network: nn.Module, teacher: nn.Module, learns: Learns
    ) -> tuple[Distillation, list[str]]:
        """What a network is trained towards, the trained one being `teacher`; and notes for the report."""
        options = self.options
        ours, theirs, notes = self._paired(network, teacher)
        likeness = Likeness(
            teachers=[Teacher(frozen(teacher, theirs)), *self._further_teachers],
            task=self.task,
            temperature=options.temperature,
            teacher_weight=options.teacher_weight,
            teacher_dropping=options.teacher_dropping,
            feature_weight=options.feature_weight,
        )
        objective = Distillation(
            network=Tapped(network, ours),
            likeness=likeness,
            stochastic=options.rounding == "stochastic",
            learns=learns,
            range_lr=RANGE_LR[learns] if options.learn_ranges else 0.0,
        )
        return objective, notes

    def _paired(self, network: nn.Module, teacher: nn.Module) -> tuple[list[str], list[str], list[str]]:
        """Features of student and teacher that are compared, and a note on which."""
        asked = self.options.features
        if asked == "off":
            return [], [], []
        example, _ = first_batch(self.context.data.calibration, 1, self.static_batch)
        ours, theirs = pair(network, teacher, example, None if asked == "auto" else asked, self.options.name)
        told = ", ".join(f"{s} to {t}" for s, t in zip(ours, theirs, strict=True))
        return ours, theirs, [f"features matched: {told}"]

    @cached_property
    def _further_teachers(self) -> list[Teacher]:
        """The teachers beside the network itself, read once for all phases."""
        found = []
        for source in self.options.teachers:
            assert self.context.load_network is not None
            further = self.context.load_network(source)
            self.require_like(further, f"distill.teachers: {source.source}")
            found.append(Teacher(frozen(further.module, []), source.weight))
        return found
