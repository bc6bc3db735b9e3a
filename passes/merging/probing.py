"""Schedules that are timed to learn what tokens and sites cost on a device."""

from __future__ import annotations

import random
from collections.abc import Sequence

from .schedule import Schedule

LEAST_LEFT = 0.1
"""Of the patches, at the end of a schedule that is drawn."""
FEW = 4
"""Sites of most of them: what one more site costs shows best beside few."""
OFTEN = 0.7
TRIES = 4


def drawn_schedules(
    whole: Schedule, sites: Sequence[int], prunes: bool, count: int, draw: random.Random
) -> list[Schedule]:
    """`whole`, and so many others, fewer where there are no more: tokens go at some sites, dropped, merged or both."""
    found = dict.fromkeys([whole])
    for _ in range(TRIES * count):
        if len(found) <= count:
            found[_drawn(whole, sites, prunes, draw)] = None
    return list(found)


def _drawn(whole: Schedule, sites: Sequence[int], prunes: bool, draw: random.Random) -> Schedule:
    most = min(FEW, len(sites)) if draw.random() < OFTEN else len(sites)
    chosen = sorted(draw.sample(list(sites), draw.randint(1, most)))
    left = draw.uniform(LEAST_LEFT, 0.9) ** (1 / len(chosen))
    joining = draw.choice((0.0, 0.5, 1.0)) if prunes else 1.0  # of what goes, the share that is merged
    pruned, merged, now = list[int](), list[int](), whole.patches
    for block in range(len(whole.blocks)):
        after = max(1, round(now * left)) if block in chosen else now
        pruned.append(after + round(joining * (now - after)))
        merged.append(after)
        now = after
    return whole.with_counts(pruned, merged)
