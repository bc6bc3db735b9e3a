"""How far a training is, and the learning rate there: both follow from the step alone, as a resumed run needs."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Moment:
    """A moment of a training. step: how many steps were taken, of `steps` in all."""

    step: int
    steps: int
    steps_an_epoch: int

    @property
    def epoch(self) -> int:
        """How many epochs are over."""
        return self.step // self.steps_an_epoch

    @property
    def share(self) -> float:
        """The share of the steps that were taken, 0 to 1."""
        return self.step / self.steps


def learning_rate(step: int, steps: int, warmup: float) -> float:
    """The factor on the largest rate: a linear warm-up over its share of the steps, then half a cosine to 0."""
    rising = max(1, round(warmup * steps)) if warmup else 0
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))
