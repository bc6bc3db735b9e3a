"""Fine-tuning: the smaller network learns to answer as the whole one did."""

from __future__ import annotations

from dataclasses import dataclass

from ..teaching.taught import Taught
from ..training.job import Group, by_decay


@dataclass
class FineTuning(Taught):
    """Likeness to the teachers; every weight learns."""

    def groups(self) -> list[Group]:
        """Weights, and what does not decay: biases, norms and other vectors."""
        return by_decay(self.network.parameters())
