"""As few tokens as a drop of the metric leaves room for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from math import sqrt

from ...calibration.measurement import Measurement
from ...calibration.metric import ROUNDING
from ...model import Model
from ..base import PassContext
from .cost import Cost
from .schedule import Schedule

LEAST_ERROR = 0.5
"""Of a sample: that none of them is lost on few samples does not tell that none would be on others."""
STEPS = (0.08, 0.04, 0.02, 0.01)
"""Of the whole cost: by how much it falls from one schedule that is judged to the next, coarse ones first."""


@dataclass
class MetricDrop:
    """What schedules lose on the validation part. made: the network with a schedule."""

    model: Model
    context: PassContext
    made: Callable[[Schedule], Model]
    _known: dict[Schedule, Measurement] = field(default_factory=dict)

    @cached_property
    def whole(self) -> Measurement:
        """With all tokens."""
        return self._measured(self.model)

    def points(self, schedule: Schedule) -> float:
        """Points that a schedule loses, and one standard error of the difference more.

        The cheapest of many schedules that lose little by what is measured is likely one that was lucky there.
        """
        differences = self.whole.scores - self._of(schedule).scores
        n = len(differences)
        error = float(differences.std(ddof=1)) / sqrt(n) if n > 1 else 0.0
        return 100 * (float(differences.mean()) + max(error, LEAST_ERROR / n))

    def told(self, schedule: Schedule) -> str:
        """What the schedule that was chosen lost, on how many samples."""
        found, whole = self._of(schedule).record, self.whole.record
        lost = 100 * (whole.value - found.value)
        return (
            f"{found.name} {found.value:.4f} on {found.n} validation samples by which the schedule was chosen,"
            f" {abs(lost):.2f} points {'above' if lost < 0 else 'below'} {whole.value:.4f};"
            f" {self.points(schedule):.2f} are lost with a standard error counted"
        )

    def _of(self, schedule: Schedule) -> Measurement:
        if schedule not in self._known:
            self._known[schedule] = self._measured(self.made(schedule))
            found, whole = self._known[schedule].record, self.whole.record
            self.context.progress.say(f"  tokens: {found.name} {found.value:.4f} of {whole.value:.4f}")
        return self._known[schedule]

    def _measured(self, model: Model) -> Measurement:
        forward, batch = model.in_batches()
        return self.context.metric.measure(forward, self.context.data.validation, batch)


def most_within(
    whole: Schedule,
    cost: Cost,
    search: Callable[[float, Schedule], Schedule],
    points: Callable[[Schedule], float],
    max_drop: float,
) -> Schedule:
    """The cheapest schedule of a series that loses at most `max_drop` points.

    search: for a limit of the cost and a schedule above it one that meets the limit, where there is one. The series
    ends at the first that loses too much, and is taken up again before it with smaller steps.
    """
    kept, limit = whole, cost.of(whole)
    for step in STEPS:
        while limit > step * cost.whole:
            lower = limit - step * cost.whole
            found = search(lower, kept)
            if cost.of(found) > lower or points(found) > max_drop + 100 * ROUNDING:
                break
            kept, limit = found, lower
    return kept
