"""Milliseconds of one inference as a function of how many tokens each block keeps, fitted to schedules that were timed.

Time is taken to be a sum over blocks: so much for a multiply-accumulate of each kind (`cost.Work`), so much for each
site that tokens go from, more where they are merged, and so much for each pair of tokens whose attention a site looks
at, or is changed by sizes. Whatever the device, these few numbers are what a dozen schedules can tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from ...calibration.times import Times
from .cost import Macs
from .schedule import Schedule

Values = np.ndarray[Any, Any]
LEAST_PROBES = 6
"""Fewer do not tell an error."""


@dataclass(frozen=True)
class Probe:
    """A schedule, and the times of the network with it beside those of the whole one."""

    schedule: Schedule
    times: Times


@dataclass(frozen=True)
class Milliseconds:
    """Of a network. rates: of each of the `features`; whole: of the network as it was given, in ms.

    error: mean of |predicted / measured - 1| over the probes, each predicted by a fit to the others; None for too few.
    """

    macs: Macs
    rates: tuple[float, ...]
    whole: float
    probes: int
    error: float | None
    unit = "latency"
    by_site = True

    def of(self, schedule: Schedule) -> float:
        """With a schedule."""
        return float(features(self.macs, schedule) @ np.array(self.rates))

    @property
    def site(self) -> float:
        """Of one more site that merges, beside what depends on its tokens."""
        return self.rates[_SITE] + self.rates[_MERGING]


_SITE, _MERGING, _LOOKED_AT, _SIZED = 5, 6, 7, 8


def features(macs: Macs, schedule: Schedule) -> Values:
    """What time is proportional to with a schedule, (9,): 1; work of four kinds in units of 1e9; sites; sites that
    merge; and pairs of tokens in units of 1e6 whose attention is looked at by a site, or comes after a merge."""
    found, sized = np.zeros(9), False
    found[0] = 1
    found[1:5] = np.array(macs.work(schedule), dtype=np.float64).sum(0) / 1e9
    for index, (given, kept) in enumerate(zip(schedule.entering(), schedule.blocks, strict=True)):
        read, tokens = macs.read_of(index), macs.leading + given
        pairs = tokens * (read or tokens) / 1e6
        found[_SIZED] += pairs * sized
        if kept.merged < given and read is None:
            merges = kept.merged < kept.pruned
            looks = kept.by_importance(given, schedule.matching)
            looked_at = looks * tokens * (macs.read or tokens) / 1e6
            found[[_SITE, _MERGING, _LOOKED_AT]] += 1, merges, looked_at
            sized |= merges
    return found


def fitted(macs: Macs, probes: Sequence[Probe]) -> Milliseconds:
    """The rates, none below 0, of least squared relative error over the probes."""
    whole = median(probe.times.median_whole_ms for probe in probes)
    rows = np.stack([features(macs, probe.schedule) for probe in probes])
    ms = np.array([probe.times.ratio * whole for probe in probes])
    errors = [abs(_left_out(rows, ms, index) / ms[index] - 1) for index in range(len(ms))]
    error = float(np.mean(errors)) if len(probes) >= LEAST_PROBES else None
    return Milliseconds(macs, tuple(_rates(rows, ms).tolist()), whole, len(probes), error)


def _left_out(rows: Values, ms: Values, index: int) -> float:
    return float(rows[index] @ _rates(np.delete(rows, index, axis=0), np.delete(ms, index)))


def _rates(rows: Values, ms: Values) -> Values:
    from scipy.optimize import nnls

    found: Values = nnls(rows / ms[:, None], np.ones_like(ms))[0]
    return found
