"""The smallest file inside a drop of the metric."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from ...calibration.metric import padded
from ...errors import CompressError
from ...model import Model
from .start import OutOfReachError

if TYPE_CHECKING:
    from .phases import Compressed, Phases

FIRST_RATIO, LEAST_RATIO, LAST_RATIO = 10.0, 2.5, 160.0
"""The first one that is tried, and about where the search ends."""
NEAR = 1.2
"""The search ends where what loses too much is so many times smaller than what does not, or less."""
METRIC_BATCH = 16


def smallest(phases: Phases, max_drop: float) -> Compressed:
    """Twice as small, or half, until one file loses more than so many points of the validation part's metric and
    another does not; then between these two. Each that is kept is trained on from the one kept before.

    Raises CompressError where none is kept.
    """
    before = _metric(phases, phases.model)
    if math.isnan(before):
        raise CompressError("l2: max_drop: the network's own metric on the validation part is NaN")
    kept, lost, best, notes = 0.0, math.inf, None, list[str]()
    ratio: float | None = FIRST_RATIO
    while ratio is not None:
        found, drop = _tried(phases, ratio, before)
        reached = 0.0 if found is None else phases.float_bytes / found.size
        keeps = found is not None and drop <= max_drop and reached > kept
        notes.append(_told(ratio, reached, drop, keeps))
        phases.context.progress.say(f"  l2: {notes[-1]}")
        if found is not None and keeps:
            kept, best = max(ratio, reached), found
            phases.start_from(found.coding)
        else:
            lost = ratio
        ratio = next_ratio(kept, lost)
    if best is None:
        raise CompressError(
            f"l2: no file loses at most {max_drop:g} points: {'; '.join(notes)}. Allow a larger max_drop, train longer,"
            " or leave l2 out"
        )
    return replace(best, notes=(*notes, *best.notes))


def _tried(phases: Phases, ratio: float, before: float) -> tuple[Compressed | None, float]:
    """The network so many times smaller and the points that it loses, None where no codes are so small."""
    try:
        found = phases.compressed(phases.float_bytes / ratio)
    except OutOfReachError:
        return None, math.inf
    return found, 100 * (before - _metric(phases, found.model(phases.model)))


def _told(ratio: float, reached: float, drop: float, keeps: bool) -> str:
    if not reached:
        return f"no codes take {ratio:.1f}x less"
    told = f"{reached:.1f}x loses {drop:+.2f} points on the validation part"
    return told if keeps else f"{told} and is not kept"


def next_ratio(kept: float, lost: float) -> float | None:
    """The ratio to try after the largest that was kept, 0 for none, and the smallest that lost; None at the end."""
    if math.isinf(lost):
        return 2 * kept if kept < LAST_RATIO else None
    if kept == 0:
        return lost / 2 if lost > LEAST_RATIO else None
    return math.sqrt(kept * lost) if lost / kept > NEAR else None


def _metric(phases: Phases, model: Model) -> float:
    batch = phases.static_batch or METRIC_BATCH
    forward = padded(model.run, batch) if phases.static_batch else model.run
    return phases.context.metric.measure(forward, phases.context.data.validation, batch).value
