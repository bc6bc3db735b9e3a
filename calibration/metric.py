"""Metrics: always with their sample count, interval and per-sample scores (for paired tests)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ..progress import Progress, Silent

if TYPE_CHECKING:
    from ..model import Forward
    from .data import Part


@dataclass(frozen=True)
class Measurement:
    """A metric's mean over `n` samples of a part, with a 95 % interval; scores: one number a sample, shape (n,)."""

    name: str
    value: float
    n: int
    ci95: tuple[float, float]
    part: str
    scores: np.ndarray[Any, Any]


class Metric(Protocol):
    """Something to measure a network by; higher is better."""

    name: str

    def measure(
        self, forward: Forward, part: Part, batch_size: int = 32, progress: Progress = Silent()
    ) -> Measurement:
        """Run `part` through `forward` and score every sample."""
