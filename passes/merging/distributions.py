"""Counts that learn: a distribution over how many patch tokens are kept, and its pull towards a cost.

After DiffRate (Chen et al., ICCV 2023, arXiv 2305.17997, sections 3.2 and 3.3): each block has one distribution for
pruning and one for merging, over the candidates N, N - g, ..., 1, and keeps the expected number of tokens, rounded up.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

STEP = 4
"""Tokens between two candidates."""
WIDTH = 0.1
"""Standard deviation of a distribution at first, as a share of all tokens."""
HALVINGS, FARTHEST = 50, 1e4
"""Of the search for a tilt, and where it ends."""


def candidates(patches: int) -> Tensor:
    """Counts that may be kept, the largest first: (k,) float64."""
    return torch.tensor([*range(patches, 1, -STEP), 1], dtype=torch.float64)


def around(count: int, choices: Tensor) -> Tensor:
    """Logits (k,) of a distribution over `choices` whose mean is `count`, as far as it can be."""
    spread = WIDTH * float(choices[0])
    logits = -((choices - count) ** 2) / (2 * spread**2)
    shares = choices / choices[0]

    def below(tilt: float) -> bool:
        return float(mean(logits + tilt * shares, choices)) < count

    return logits + least(below, -FARTHEST, FARTHEST) * shares


def mean(logits: Tensor, choices: Tensor) -> Tensor:
    """Expected counts, (...,), of logits (..., k)."""
    return logits.double().softmax(-1) @ choices.to(logits.device)


def survival(logits: Tensor, choices: Tensor, patches: int) -> Tensor:
    """Probability that more than r tokens are kept, r = 0 ... patches - 1: (..., patches); it sums to the mean."""
    more = choices.to(logits.device)[:, None] > torch.arange(patches, device=logits.device)
    return logits.double().softmax(-1) @ more.double()


def straight_through(hard: Tensor, soft: Tensor) -> Tensor:
    """The value of `hard` with the gradient of `soft`."""
    return hard + (soft - soft.detach())


def least(below: Callable[[float], bool], low: float, high: float) -> float:
    """Where `below`, true at low and false from somewhere on, stops being so."""
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if below(middle) else (low, middle)
    return high
