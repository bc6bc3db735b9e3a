"""The smallest file inside a drop of the metric."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from ...calibration.measurement import Measurement
from ...calibration.metric import ROUNDING
from ...calibration.statistics import mean_of
from ...errors import CompressError
from ...model import Model
from .phases import Compressed, Phases
from .start import OutOfReachError

FIRST_RATIO, LEAST_RATIO, LAST_RATIO = 10.0, 2.5, 160.0
"""The first one that is tried, and about where the search ends."""
NEAR = 1.2
"""The search ends where what loses too much is so many times smaller than what does not, or less."""


def smallest(phases: Phases, max_drop: float) -> Compressed:
    """Twice as small, or half, until one file loses more than so many points of the validation part's metric and
    another does not; then between these two. Each that is kept is trained on from the one kept before.

    Raises CompressError where none is kept.
    """
    before = _measured(phases, phases.model)
    kept, lost, best = 0.0, math.inf, None
    notes, drops = list[str](), list[Drop]()
    ratio: float | None = FIRST_RATIO
    while ratio is not None:
        try:
            found = phases.compressed(phases.float_bytes / ratio)
        except OutOfReachError:
            keeps, told = False, f"no codes take {ratio:.1f}x less"
        else:
            drops.append(drop_of(before, _measured(phases, found.model(phases.model))))
            reached = phases.float_bytes / found.size
            keeps = drops[-1].points <= max_drop + ROUNDING and reached > kept
            told = f"{reached:.1f}x loses {drops[-1]}" + ("" if keeps else " and is not kept")
            if keeps:
                kept, best = max(ratio, reached), found
                phases.start_from(found.coding)
        lost = lost if keeps else ratio
        notes.append(told)
        phases.context.progress.say(f"  l2: {told}")
        ratio = next_ratio(kept, lost)
    if drops and (last := drops[-1]).error > max_drop:
        notes.append(
            f"the validation part's {last.n} samples tell drops only to about {last.error:.2f} points, more than"
            " max_drop: the size is as much chance; give the part more samples"
        )
    if best is None:
        raise CompressError(
            f"l2: no file loses at most {max_drop:g} points: {'; '.join(notes)}. Allow a larger max_drop, train longer,"
            " or leave l2 out"
        )
    return replace(best, notes=(*notes, *best.notes))


@dataclass(frozen=True)
class Drop:
    """How much less a metric is, in points, with the standard error of that over n samples; NaN of one sample."""

    points: float
    error: float
    n: int

    def __str__(self) -> str:
        error = f" ± {self.error:.2f}" if self.n > 1 else ""
        return f"{self.points:+.2f}{error} points of the validation part (n = {self.n})"


def drop_of(before: Measurement, after: Measurement) -> Drop:
    """The drop between two measurements of the same samples: the error is that of the mean of their differences."""
    lost = mean_of(100 * (np.asarray(before.scores, np.float64) - np.asarray(after.scores, np.float64)))
    return Drop(lost.value, lost.error, lost.n)


def next_ratio(kept: float, lost: float) -> float | None:
    """The ratio to try after the largest that was kept, 0 for none, and the smallest that lost; None at the end."""
    if math.isinf(lost):
        return 2 * kept if kept < LAST_RATIO else None
    if kept == 0:
        return lost / 2 if lost > LEAST_RATIO else None
    return math.sqrt(kept * lost) if lost / kept > NEAR else None


def _measured(phases: Phases, model: Model) -> Measurement:
    forward, batch = model.in_batches()
    return phases.context.metric.measure(forward, phases.context.data.validation, batch)
