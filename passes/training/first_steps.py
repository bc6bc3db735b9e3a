"""How large the first steps of a training are: what tells a learning rate that is too large before the network is lost.

AdamW moves every weight by about the rate, however small its gradient. To first order the loss then falls by the sum of
gradients times moves: for networks with many weights and steep losses, such as pretrained transformers, by many times
all that it is (a step over Polyak's, as Loizou et al. 2021, arXiv 2002.10542, bound it). Trainings of convolutional
networks that go well were seen at 0.3 to 0.5 of it.
"""

from __future__ import annotations

import torch
from torch import Tensor

WATCHED = 5
"""How many steps are looked at."""
WELL = 0.3
"""The share of the loss that a first step may be predicted to take."""


def weights_before(optimizer: torch.optim.Optimizer) -> list[list[Tensor]]:
    """Copies of what learns, by groups."""
    return [[p.detach().clone() for p in group["params"]] for group in optimizer.param_groups]


def predicted_fall(optimizer: torch.optim.Optimizer, before: list[list[Tensor]]) -> float:
    """By how much the loss falls, to first order, by the step just taken, were it as long as at the largest rate.

    before: of `weights_before`. Each group has its rate as `lr` and the largest one as `peak_lr`.
    """
    fall = 0.0
    for group, old in zip(optimizer.param_groups, before, strict=True):
        longer = group["peak_lr"] / group["lr"] if group["lr"] else 0.0
        for weight, was in zip(group["params"], old, strict=True):
            if weight.grad is not None:
                fall += longer * float(((was - weight.detach()) * weight.grad).sum(dtype=torch.float64))
    return fall


def rate_that_fits(lr: float, change: float) -> float:
    """The rate at which first steps take WELL of the loss, where they take `change` at `lr`; to one digit."""
    return float(f"{lr * WELL / change:.0e}")
