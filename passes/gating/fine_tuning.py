"""Fine-tuning: the smaller network learns to answer as the whole one did."""

from __future__ import annotations

from dataclasses import dataclass

from ..teaching.taught import Taught
from ..training.job import Group


@dataclass
class FineTuning(Taught):
    """Likeness to the teachers; every weight learns."""

    def groups(self) -> list[Group]:
        """Weights, and what does not decay: biases, norms and other vectors."""
        parameters = [p for p in self.network.parameters() if p.is_floating_point()]
        return [
            Group([p for p in parameters if p.dim() > 1]),
            Group([p for p in parameters if p.dim() <= 1], decay=False),
        ]
