"""The smallest file inside a drop of the metric."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ...calibration.metric import padded
from ...errors import CompressError
from ...model import Model
from .start import OutOfReachError

if TYPE_CHECKING:
    from .phases import Compressed, Phases

FIRST_RATIO, LAST_RATIO, RUNG = 5.0, 200.0, 1.4
"""It begins there, ends there, and goes on by this factor."""
METRIC_BATCH = 16


def smallest(phases: Phases, max_drop: float) -> Compressed:
    """From rung to rung smaller, each trained on from the one before, as long as the metric of the validation part
    falls by at most so many points.

    Raises CompressError where the first rung loses more or cannot be reached.
    """
    before = _metric(phases, phases.model)
    ratio, best, notes = FIRST_RATIO, None, list[str]()
    while ratio <= LAST_RATIO:
        try:
            found = phases.compressed(phases.float_bytes / ratio)
        except OutOfReachError:
            if best is None:
                raise
            notes.append(f"no codes take {ratio:.1f}x less")
            break
        reached = phases.float_bytes / found.size
        drop = 100 * (before - _metric(phases, found.model(phases.model)))
        told = f"{reached:.1f}x loses {drop:+.2f} points on the validation part"
        phases.context.progress.say(f"  l2: {told}")
        if drop > max_drop:
            notes.append(f"{told}, more than {max_drop:g}")
            break
        notes.append(told)
        best = found
        phases.start_from(found.coding)
        ratio = max(ratio, reached) * RUNG
    if best is None:
        raise CompressError(
            f"l2: max_drop: {max_drop:g} cannot be kept: {notes[-1]}; allow a larger drop, or train longer"
        )
    return replace(best, notes=(*notes, *best.notes))


def _metric(phases: Phases, model: Model) -> float:
    batch = phases.static_batch or METRIC_BATCH
    forward = padded(model.run, batch) if phases.static_batch else model.run
    return phases.context.metric.measure(forward, phases.context.data.validation, batch).value
