"""The objective of a network that learns from teachers; a pass adds what is its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from ..training.draws import Draws
from ..training.job import Forward, Group
from ..training.schedule import Moment
from .likeness import Likeness
from .taps import Tapped, move


@dataclass
class Taught(ABC):
    """To be like the teachers, under the terms of a pass: an `Objective`, but for the parameters that learn.

    A pass derives its own. `groups` says what learns, `terms` what else the loss is made of, `schedule` what changes
    while it trains; all that is to be kept over a resumption is in `network`.
    """

    network: Tapped
    likeness: Likeness

    @abstractmethod
    def groups(self) -> list[Group]:
        """The parameters that learn, all of `network`; its others stay as they are."""

    def to(self, device: torch.device) -> None:
        """Move network and teachers."""
        move(self.network, device)
        self.likeness.to(device)

    def training(self, on: bool) -> None:
        """Switch BatchNorm and dropout of an ordinary network; a captured graph has neither."""
        self.network.train(on and not self.network.captured)

    def schedule(self, now: Moment) -> None:  # noqa: B027
        """Change nothing."""

    def loss(
        self, forward: Forward, inputs: tuple[Tensor, ...], labels: Tensor, draws: Draws
    ) -> dict[str, Tensor]:
        """labels, teacher and features, and the terms of the pass, each weighted."""
        found = forward(*inputs)
        return {**self.likeness.loss(found, self.likeness.answers(inputs), labels, draws), **self.terms()}

    def terms(self) -> dict[str, Tensor]:
        """Nothing but likeness."""
        return {}

    def outputs(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The network's outputs for one batch, without gradients and on the CPU, to judge it by."""
        device = next(self.network.parameters()).device
        with torch.no_grad():
            outputs, _ = self.network(*(x.to(device) for x in inputs))
        return tuple(y.cpu() for y in outputs)
