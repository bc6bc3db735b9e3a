"""Networks with fewer tokens, timed on the device that a recipe is for."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ...calibration.times import Times
from ...errors import CompressError
from ...model import Model
from ..base import PassContext
from .cost import Macs
from .milliseconds import Milliseconds, Probe, fitted
from .probing import drawn_schedules
from .schedule import Schedule

CLOSE = 1.01
"""How far above what was asked for a measured time may be and count as that."""
PROBES = 14
"""Schedules that are timed beside that with all tokens: some more than the rates that are fitted to them."""


@dataclass
class Timing:
    """What is known of one network's times. made: it with a schedule; macs: over schedules.

    CompressError where nothing can be timed. fitted: milliseconds over schedules, once these were fitted.
    """

    what: str
    model: Model
    context: PassContext
    made: Callable[[Schedule], Model]
    macs: Macs
    _probes: list[Probe] = field(default_factory=list)
    fitted: Milliseconds = field(init=False)

    def fit(self, whole: Schedule, sites: Sequence[int], prunes: bool) -> None:
        """Time some schedules, which `fitted` goes by."""
        drawn = drawn_schedules(whole, sites, prunes, PROBES, random.Random(self.context.seed))
        known = [probe.schedule for probe in self._probes]
        self._time([schedule for schedule in drawn if schedule not in known])
        self.fitted = fitted(self.macs, self._probes)

    def measured(self, schedule: Schedule) -> Times:
        """The times of a schedule."""
        if not any(probe.schedule == schedule for probe in self._probes):
            self._time([schedule])
        return next(probe.times for probe in self._probes if probe.schedule == schedule)

    def told(self, schedule: Schedule, share: float | None) -> str:
        """How well times are known, and that of the schedule that was chosen. share: what was asked for."""
        by, measured = self.fitted, self.measured(schedule).ratio
        asked = "" if share is None else f", {share:.3f} were asked for"
        missed = " and this is more" if share is not None and measured > CLOSE * share else ""
        error = "not known" if by.error is None else f"{100 * by.error:.1f} %"
        predicted = by.of(schedule) / by.whole
        return (
            f"measured at {measured:.3f} of the whole network's {by.whole:.3g} ms ({self.context.ends_in or 'float'},"
            f" batch {self.context.batch or 1}){asked}{missed}; {predicted:.3f} were predicted, by"
            f" {by.probes} schedules that were timed, each predicted by the others with a mean error of {error}; a site"
            f" that merges takes {1000 * by.site:.0f} µs of its own"
        )

    def _time(self, schedules: Sequence[Schedule]) -> None:
        if self.context.times is None:
            raise CompressError(
                f"{self.what}: cost: latency needs a device to time networks on: run a recipe with a target that can"
                " be measured, or take cost: macs"
            )
        times = self.context.times(self.model, [self.made(schedule) for schedule in schedules])
        self._probes += [Probe(*pair) for pair in zip(schedules, times, strict=True)]
