"""What is kept only where it does no harm on samples that nothing was fitted to."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn


def least(losses: Sequence[float]) -> int:
    """The place of the least loss, the first one of several; what is not finite is worse than anything else."""
    return min(range(len(losses)), key=lambda place: (not math.isfinite(losses[place]), losses[place]))


@dataclass(frozen=True)
class Trial:
    """The loss before and after a change, and whether the change was kept."""

    before: float
    after: float
    kept: bool


def keep_where_no_worse(
    network: nn.Module, change: Callable[[], object], loss: Callable[[nn.Module], float]
) -> Trial:
    """Make a change of parameters and buffers, and take it back where the loss rises by it or is not finite."""
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    before = loss(network)
    change()
    after = loss(network)
    kept = math.isfinite(after) and not after > before
    if not kept:
        network.load_state_dict(state)
    return Trial(before, after, kept)
