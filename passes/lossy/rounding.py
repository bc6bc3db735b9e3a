"""Rate-distortion-optimised rounding: of two codes the one that costs less, its error and its bits together."""

from __future__ import annotations

import torch
from torch import Tensor

from .coded import Codes

SLOPE = 0.1155
"""Slope of squared error over bits at the best uniform quantizer: d(1/12 · 4^-bits) / d bits, in its squared steps."""
ROUNDS = 2


def rounded(codes: Codes, strength: float) -> Tensor:
    """Whole codes of a tensor, same shape: for each the nearest one or the next towards zero.

    strength: of the rate against the squared error; 0 rounds to the nearest, 1 is the slope of a uniform quantizer.
    """
    with torch.no_grad():
        transform, latent = codes.transform(), codes.latent.detach()
        nearest = codes.symbols()
        chosen = nearest
        if strength == 0:
            return chosen
        inner = nearest - nearest.sign()
        weight = strength * SLOPE * transform.step**2
        errors = [(latent - transform.decode(each)) ** 2 for each in (nearest, inner)]
        first, last = min(0, int(nearest.min())), max(0, int(nearest.max()))
        for _ in range(ROUNDS):
            length = _lengths(chosen, first, last)
            costs = [
                error + weight * length[(each - first).long()]
                for error, each in zip(errors, (nearest, inner), strict=True)
            ]
            chosen = torch.where(costs[1] < costs[0], inner, nearest)
        return chosen


def _lengths(chosen: Tensor, first: int, last: int) -> Tensor:
    """Bits of each symbol from `first` to `last`, by how often it is chosen."""
    counts = torch.bincount((chosen - first).long().reshape(-1), minlength=last - first + 1).float()
    return -torch.log2((counts + 0.5) / (counts.sum() + 0.5 * len(counts)))
