"""Sustained load: where a device that gets warm becomes slower (its thermal knee), and how much."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from math import log
from statistics import median

from ...record import Milliseconds, Record, Seconds
from .change_points import change_points

WINDOW_S = 1.0
SLOWER = 1.03
"""A level counts as a knee when it is slower than the first one by this factor."""


class Sustained(Record, frozen=True):
    """One long launch. windows_ms: median of each second of it, in order.

    first_ms, last_ms: medians of the first and of the last level. knee_s: when the device first left its first level
    for a slower one, null when it never did.
    """

    seconds: Seconds
    first_ms: Milliseconds
    last_ms: Milliseconds
    knee_s: Seconds | None
    windows_ms: tuple[Milliseconds, ...]


def sustained(samples_ns: Sequence[int], calls_per_sample: int = 1) -> Sustained:
    """The levels of one launch's samples, which followed each other without a pause; at least one sample."""
    ends = list(accumulate(ns * calls_per_sample / 1e9 for ns in samples_ns))
    windows: dict[int, list[float]] = {}
    for end, ns in zip(ends, samples_ns, strict=True):
        windows.setdefault(int(end / WINDOW_S), []).append(ns / 1e6)
    medians = [median(samples) for samples in windows.values()]
    times = [place * WINDOW_S for place in windows]
    starts = [0, *change_points([log(value) for value in medians])]
    levels = [median(medians[a:b]) for a, b in zip(starts, [*starts[1:], len(medians)], strict=True)]
    slower = next((i for i, level in enumerate(levels) if level > SLOWER * levels[0]), None)
    return Sustained(
        seconds=ends[-1],
        first_ms=levels[0],
        last_ms=levels[-1],
        knee_s=None if slower is None else times[starts[slower]],
        windows_ms=tuple(medians),
    )
