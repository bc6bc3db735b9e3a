"""The objective of `l2`: the unrounded network's outputs and features, under the rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from ..teaching.taught import Taught
from ..training.job import Group
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
class UnderRate(Taught):
    """Likeness to the unrounded network plus the rate, whose weight falls while the size is below its target."""

    learns: Learns
    budget: Budget
    codes: Sequence[Codes] = field(init=False)

    def __post_init__(self) -> None:
        self.codes = [m for m in self.network.modules() if isinstance(m, Codes)]
        self.narrow = [each for each in self.codes if not each.wide]
        self.count = sum(each.latent.numel() for each in self.codes)

    def groups(self) -> list[Group]:
        """Steps and edges, or latent values."""
        if self.learns == "transforms":
            free = [m for m in self.narrow if not m.on_grid]
            return [Group([p for m in free for p in (m.log_step, m.log_edge)], decay=False)]
        vectors = [m.latent for m in self.codes if m.wide or m.latent.dim() <= 1]
        fast = {id(p) for p in vectors}
        return [
            Group([m.latent for m in self.codes if id(m.latent) not in fast], decay=False),
            Group(vectors, VECTORS_LR, decay=False),
        ]

    def terms(self) -> dict[str, Tensor]:
        """The rate, weighted."""
        budget = self.budget
        symbols = [each.symbols() for each in self.narrow]
        groups = [alike(each) for each in symbols]
        taken = sum(entropy_bits(each, group) for each, group in zip(symbols, groups, strict=True))
        weight = budget.weight * (BELOW_TARGET[self.learns] if taken <= budget.bits else 1.0) / self.count
        bits = torch.zeros((), device=self.codes[0].latent.device)
        if weight > 0:
            for each, group in zip(self.narrow, groups, strict=True):
                bits = bits + rate(each.codes(), budget.width, budget.kernel, group)
        return {"rate": weight * bits}
