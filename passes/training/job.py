"""What a training is made of: the objective, the job that every process is told of, and the history it leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ...calibration.data import Part
from .draws import Draws
from .options import TrainingOptions
from .schedule import Moment

Forward = Callable[..., Any]
"""Runs the network that is trained; on several processes a wrapper that keeps them in step."""


@dataclass(frozen=True)
class Group:
    """Parameters that share `lr_factor` times the options' learning rate, and decay or not."""

    parameters: Sequence[nn.Parameter]
    lr_factor: float = 1.0
    decay: bool = True


def by_decay(parameters: Iterable[nn.Parameter]) -> list[Group]:
    """Weights, which decay, and vectors such as biases, which do not; of those that gradients can change."""
    learning = [p for p in parameters if p.is_floating_point()]
    return [
        Group([p for p in learning if p.dim() > 1]),
        Group([p for p in learning if p.dim() <= 1], decay=False),
    ]


class Objective(Protocol):
    """What is trained, and towards what."""

    @property
    def network(self) -> nn.Module:
        """What is trained; its whole state is what checkpoints hold."""

    def groups(self) -> list[Group]:
        """The parameters that learn, all of `network`; the loop tells its others to need no gradient."""

    def to(self, device: torch.device) -> None:
        """Move all that the loss needs."""

    def training(self, on: bool) -> None:
        """Switch between training and evaluation."""

    def schedule(self, now: Moment) -> None:
        """Change what depends on how far the training is, and on nothing else, as a resumed one comes back to it.

        Called before each step, before the network is measured, and at the end.
        """

    def loss(
        self, forward: Forward, inputs: tuple[Tensor, ...], labels: Tensor, draws: Draws
    ) -> dict[str, Tensor]:
        """The parts of the loss by name, each the mean over the samples; their sum is minimized."""


@dataclass(frozen=True)
class Job:
    """A training as every process is told of it.

    what: as messages and progress name it ("distill"); folder: the recipe's, where functions of the user lie.
    """

    what: str
    objective: Objective
    part: Part
    options: TrainingOptions
    seed: int
    device: str = "cpu"
    folder: Path | None = None


@dataclass
class History:
    """What a training did.

    epochs: {epoch, lr, loss, its parts, metric, metric_error where it is known}, one row each; row 0 is the network
        before any step.
    best: the epoch whose weights were kept; None when the last one's were.
    """

    epochs: list[dict[str, float]] = field(default_factory=list)
    best: int | None = None
    stopped_early: bool = False
