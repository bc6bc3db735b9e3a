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

PROBES = 14
"""Schedules that are timed beside that with all tokens: some more than the rates that are fitted to them."""


@dataclass
class Timing:
    """What is known of one network's times. made: it with a schedule; macs: over schedules."""

    what: str
    model: Model
    context: PassContext
    made: Callable[[Schedule], Model]
    macs: Macs
    _probes: list[Probe] = field(default_factory=list)

    def fit(self, whole: Schedule, sites: Sequence[int], prunes: bool) -> None:
        """Time some schedules; CompressError where nothing can be timed."""
        if self.context.times is None:
            raise CompressError(
                f"{self.what}: cost: latency needs a device to time networks on: run a recipe with a target that can"
                " be measured, or take cost: macs"
            )
        draw = random.Random(self.context.seed)
        self._time(drawn_schedules(whole, sites, prunes, PROBES, draw))

    @property
    def fitted(self) -> Milliseconds:
        """Milliseconds over schedules, by the schedules that were drawn."""
        return fitted(self.macs, self._probes[: PROBES + 1])

    def measured(self, schedule: Schedule) -> float:
        """Milliseconds of a schedule, as timed."""
        return self._times_of(schedule).ratio * self.fitted.whole

    def told(self, schedule: Schedule) -> str:
        """How well times are known, and that of the schedule that was chosen."""
        by, measured = self.fitted, self._times_of(schedule).ratio
        error = "not known" if by.error is None else f"{100 * by.error:.1f} %"
        return (
            f"measured at {measured:.3f} of the whole network's {by.whole:.3g} ms ({self.context.ends_in or 'float'},"
            f" batch {self.context.batch or 1}); {by.of(schedule) / by.whole:.3f} were predicted, by {by.probes}"
            f" schedules that were timed, of which each is predicted by the others with a mean error of {error}; a site"
            f" that merges takes {1000 * by.site:.0f} µs of its own"
        )

    def _times_of(self, schedule: Schedule) -> Times:
        known = [probe.times for probe in self._probes if probe.schedule == schedule]
        if not known:
            self._time([schedule])
        return known[0] if known else self._probes[-1].times

    def _time(self, schedules: Sequence[Schedule]) -> None:
        assert self.context.times is not None
        times = self.context.times(self.model, [self.made(schedule) for schedule in schedules])
        self._probes += [Probe(*pair) for pair in zip(schedules, times, strict=True)]
