"""The objective of `l2`: the unrounded network's outputs and features, under the rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from ..distillation.objective import Distillation
from ..distillation.taps import Tapped
from ..training.draws import Draws
from ..training.job import Forward, Group
from .coded import Codes
from .counter import entropy_bits, rate
from .names import KernelName

Learns = Literal["transforms", "weights"]
BELOW_TARGET = 0.01
"""The rate's share of its weight while the size is below its target (Shi et al. 2023, section 3.3)."""


@dataclass(frozen=True)
class Budget:
    """What the file may take. bits: of all codes at their entropy, which leaves room for the rest of the file."""

    bits: float
    weight: float
    kernel: KernelName
    width: float


@dataclass
class UnderRate:
    """Distillation from the unrounded network plus the rate, whose weight falls while the size is below its target."""

    distillation: Distillation
    learns: Learns
    budget: Budget
    codes: Sequence[Codes] = field(init=False)

    def __post_init__(self) -> None:
        self.codes = [m for m in self.network.modules() if isinstance(m, Codes)]
        self.count = sum(each.latent.numel() for each in self.codes)

    @property
    def network(self) -> Tapped:
        """The network whose tensors are codes."""
        return self.distillation.network

    def groups(self) -> list[Group]:
        """Steps and edges, or latent values and what is not coded; all others are told to need no gradient."""
        transforms: list[nn.Parameter] = [p for m in self.codes for p in (m.log_step, m.log_edge)]
        of_transforms = {id(p) for p in transforms}
        rest = [p for p in self.network.parameters() if id(p) not in of_transforms]
        learning = transforms if self.learns == "transforms" else rest
        chosen = {id(p) for p in learning}
        for parameter in self.network.parameters():
            parameter.requires_grad_(id(parameter) in chosen)
        return [Group(learning, decay=False)]

    def to(self, device: torch.device) -> None:
        """Move both networks."""
        self.distillation.to(device)

    def training(self, on: bool) -> None:
        """Nothing changes: a captured graph has neither BatchNorm nor dropout."""

    def loss(
        self, forward: Forward, inputs: tuple[Tensor, ...], labels: Tensor, draws: Draws
    ) -> dict[str, Tensor]:
        """teacher, features and rate, each weighted."""
        parts = self.distillation.loss(forward, inputs, labels, draws)
        budget = self.budget
        codes = [each.codes() for each in self.codes]
        within = sum(entropy_bits(torch.round(each.detach())) for each in codes) <= budget.bits
        weight = budget.weight * (BELOW_TARGET if within else 1.0) / self.count
        bits = torch.stack([rate(each, budget.width, budget.kernel) for each in codes]).sum()
        return {**parts, "rate": weight * bits}
