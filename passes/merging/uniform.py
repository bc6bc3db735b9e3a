"""The schedule that keeps the same share of its tokens at every site."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

from .cost import Cost
from .schedule import Schedule

STEPS = 40
"""Halvings of the share: far finer than one token."""


HALF = 0.5
"""Of what goes, the share that is merged where tokens may be dropped."""


def uniform(whole: Schedule, sites: Sequence[int], cost: Cost, limit: float, joining: float) -> Schedule:
    """The largest share of tokens, alike at all sites, whose cost is at most `limit`.

    The least there is where no share is small enough: one token from the first site on, or as few as merging leaves.
    joining: of what goes at a site, the share that is merged; the rest is dropped.
    """
    if cost.of(whole) <= limit:
        return whole
    low, high = 0.0, 1.0
    for _ in range(STEPS):
        middle = (low + high) / 2
        fits = cost.of(keeping(middle, whole, sites, joining)) <= limit
        low, high = (middle, high) if fits else (low, middle)
    return keeping(low, whole, sites, joining)


def keeping(share: float, whole: Schedule, sites: Sequence[int], joining: float) -> Schedule:
    """With this share of its tokens kept at each site, at least one, and as many as merging must leave."""
    pruned, merged, exact = list[int](), list[int](), float(whole.patches)
    for block in range(len(whole.blocks)):
        before = max(1, round(exact))
        if block in sites:
            exact = max(1.0, exact * share)
        after = max(1, round(exact))
        pruned.append(after + ceil(joining * (before - after)))
        merged.append(after)
    return whole.with_counts(pruned, merged)
