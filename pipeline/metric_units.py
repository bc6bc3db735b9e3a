"""Points are hundredths of a share: what recipes give in points makes no sense of a metric that is none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import CompressError
from .pages.words import is_share

if TYPE_CHECKING:
    from ..calibration.measurement import MetricRecord
    from .recipe.sections import Recipe


def require_share(recipe: Recipe, measured: MetricRecord) -> None:
    """CompressError, naming each option, when a drop is given in points of a metric that is not within 0 and 1."""
    if is_share(measured.value) or measured.value != measured.value:
        return
    no_share = f"of metric {measured.name}, which is {measured.value:.4g} of the float model and so no share of 0 to 1"
    drop = recipe.budgets.metric_drop
    problems = []
    if drop is not None and drop.points:
        problems.append(
            f"budgets.metric_drop: {drop.text} are hundredths of a share, {no_share}; write `{100 * drop.fraction:g}"
            " units` for as much of the metric itself, or per cent of the float value"
        )
    for index, chosen in enumerate(recipe.passes):
        if getattr(chosen, "max_drop", None) is not None:
            problems.append(
                f"passes[{index}] ({chosen.name}).max_drop: it is in points, hundredths of a share, {no_share};"
                " leave it out, or let the metric return a fraction of its largest value"
            )
    if problems:
        raise CompressError("\n".join(problems))
