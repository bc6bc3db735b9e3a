"""The objective of `l2`: the unrounded network's outputs and features, under the rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from ..distillation.objective import Distillation
from ..teaching.taps import Tapped
from ..training.draws import Draws
from ..training.job import Forward, Group
from .coded import Codes
from .counter import alike, entropy_bits, rate
from .names import KernelName

Learns = Literal["transforms", "weights"]
BELOW_TARGET: dict[Learns, float] = {"transforms": 0.01, "weights": 0.0}
"""The rate's share of its weight while the size is below its target. A hundredth (Shi et al. 2023, section 3.3) is
enough for AdamW to move every weight that nothing else pulls at, all at its full rate: files end smaller than asked."""
VECTORS_LR = 20.0
"""Factor on the learning rate of biases and the like. Weights move by small parts of a code, as each that comes to be
rounded otherwise brings an error that no other weight takes back; vectors have more and finer codes."""


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
        self.narrow = [each for each in self.codes if not each.wide]
        self.count = sum(each.latent.numel() for each in self.codes)

    @property
    def network(self) -> Tapped:
        """The network whose tensors are codes."""
        return self.distillation.network

    def groups(self) -> list[Group]:
        """Steps and edges, or latent values; all others are told to need no gradient."""
        if self.learns == "transforms":
            groups = [Group([p for m in self.narrow for p in (m.log_step, m.log_edge)], decay=False)]
        else:
            vectors = [m.latent for m in self.codes if m.wide or m.latent.dim() <= 1]
            fast = {id(p) for p in vectors}
            groups = [
                Group([m.latent for m in self.codes if id(m.latent) not in fast], decay=False),
                Group(vectors, VECTORS_LR, decay=False),
            ]
        groups = [group for group in groups if group.parameters]
        chosen = {id(p) for group in groups for p in group.parameters}
        for parameter in self.network.parameters():
            parameter.requires_grad_(id(parameter) in chosen)
        return groups

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
        symbols = [each.symbols() for each in self.narrow]
        groups = [alike(each) for each in symbols]
        taken = sum(entropy_bits(each, group) for each, group in zip(symbols, groups, strict=True))
        weight = budget.weight * (BELOW_TARGET[self.learns] if taken <= budget.bits else 1.0) / self.count
        bits = torch.zeros((), device=inputs[0].device)
        if weight > 0:
            for each, group in zip(self.narrow, groups, strict=True):
                bits = bits + rate(each.codes(), budget.width, budget.kernel, group)
        return {**parts, "rate": weight * bits}
