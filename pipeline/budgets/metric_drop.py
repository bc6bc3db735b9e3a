"""Metric drop: how much worse than the float model the compressed one may be, wherever it was measured."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, NamedTuple, Self

from pydantic import BeforeValidator, Field, model_validator

from ...section import Section
from ..pages.words import known, metric_value
from ..recipe.values import quantity
from .budget import Budget, Evidence, Finding, NotMeasuredError, told_apart

if TYPE_CHECKING:
    from ...calibration.measurement import MetricRecord
    from ..run_record import TargetRecord

# -- what a recipe says

_WORDS = 'a drop such as "0.5 points" of a share, "1 %" of the float value, or "0.3 units" of any metric'


class MetricDrop(Section, use_attribute_docstrings=False):
    """How much of the metric may be lost: in points of a share, relative to the float model's value, or in units."""

    fraction: float = Field(
        ge=0,
        description="0.005 is half a point, or half a percent when `relative`, or that much of the metric itself when "
        "`units`.",
    )
    relative: bool = Field(False, description="Whether `fraction` is of the float model's value.")
    units: bool = Field(
        False,
        description="Whether `fraction` is in the metric's own unit, as of a PSNR in dB or an mAP of 0 to 100.",
    )

    @model_validator(mode="after")
    def _at_most_all(self) -> Self:
        if self.fraction > 1 and not self.units:
            raise ValueError(f"expected {_WORDS}")
        return self

    @property
    def points(self) -> bool:
        """Whether `fraction` is of the largest value that a share has, which is 1."""
        return not (self.relative or self.units)

    @property
    def text(self) -> str:
        """The limit as a recipe says it."""
        if self.units:
            return f"{self.fraction:g} units"
        return f"{100 * self.fraction:g} " + ("% of the float value" if self.relative else "points")


def _parse(value: object) -> object:
    if isinstance(value, dict | MetricDrop):
        return value
    scale = {"point": 0.01, "points": 0.01, "%": 0.01, "unit": 1, "units": 1}
    parsed = quantity(value, scale, _WORDS)
    units = isinstance(value, str) and value.rstrip().endswith(("unit", "units"))
    if parsed is None or (parsed > 1 and not units):
        raise ValueError(f"expected {_WORDS}")
    relative = isinstance(value, str) and value.rstrip().endswith("%")
    return {"fraction": parsed, "relative": relative, "units": units}


# -- how it is judged


class _Place(NamedTuple):
    """Where the compressed model was measured, and the float value that it is fair to compare with."""

    where: str
    before: MetricRecord
    after: MetricRecord

    def drop(self, relative: bool) -> float:
        """How much was lost; NaN where that is not known."""
        lost = self.before.value - self.after.value
        if not relative:
            return lost
        return lost / abs(self.before.value) if self.before.value else math.nan


class MetricDropBudget(Budget[MetricDrop]):
    """Most that the metric falls, on the worst of the places: PyTorch, and each device that ran."""

    subject = "network"

    def name(self, found: Evidence) -> str:
        return f"{found.steps[0].metric.name} drop" if found.steps else "metric drop"

    @property
    def limit_text(self) -> str:
        return self.limit.text

    def judged(self, found: Evidence) -> Finding:
        from ...calibration.metric import ROUNDING

        places = list(_places(found))
        drops = [place.drop(self.limit.relative) for place in places]
        for place, drop in zip(places, drops, strict=True):
            if not known(drop):
                raise NotMeasuredError(
                    f"the metric of {place.where} is not a number, or the float value is 0."
                )
        drop = max(drops)
        worst = places[drops.index(drop)]
        kept = drop <= self.limit.fraction + ROUNDING
        reason = worst.where
        if len(places) > 1:
            reason += f" is the worst of {len(places)} places it was measured"
        n = worst.after.n
        if self.limit.points and worst.before.name.startswith("top") and 1 / n > self.limit.fraction > 0:
            reason += f"; with n = {n} one sample is {100 / n:.2g} points, more than the limit"
        if drop <= 0:
            reason += "; nothing was lost"
        else:
            reason += f"; the drop is {'within' if kept else 'over'} the limit of {self.limit_text}"
        return Finding(_drop_text(self.limit, drop, worst), kept, reason + ".")


def _places(found: Evidence) -> Iterator[_Place]:
    """Everywhere the compressed model was measured, PyTorch first."""
    if not found.steps:
        raise NotMeasuredError("the run has no steps.")
    reference = found.steps[0].metric
    yield _Place("the PyTorch model after the last pass", reference, found.steps[-1].metric)
    for target in found.targets:
        if target.status == "run":
            yield _place_on(target, reference)


def _place_on(target: TargetRecord, reference: MetricRecord) -> _Place:
    """A device beside the float model, or beside its own float engine where it ran fewer samples."""
    measured = target.compressed.metric if target.compressed is not None else None
    if measured is None:
        raise NotMeasuredError(f"the compressed engine on {target.label} ran without its metric.")
    own_float = target.baseline.metric if target.baseline is not None else None
    fair = reference if _same_samples(reference, measured) else own_float
    if fair is own_float and target.broken_baselines:
        raise NotMeasuredError(
            f"the float engine on {target.label} is wrong, and nothing else ran on these samples."
        )
    if fair is None or not _same_samples(fair, measured):
        raise NotMeasuredError(
            f"{target.label} and the float model were measured on different samples "
            f"({measured.part}, n = {measured.n}, against {reference.part}, n = {reference.n})."
        )
    return _Place(target.label, fair, measured)


def _same_samples(one: MetricRecord, other: MetricRecord) -> bool:
    return (one.name, one.part, one.n) == (other.name, other.part, other.n)


def _drop_text(limit: MetricDrop, drop: float, place: _Place) -> str:
    if limit.units:
        amount = f"{told_apart(limit.fraction, drop, lambda v: f'{v:.4g}', '{:.8g}')} units"
    else:
        amount = told_apart(100 * limit.fraction, 100 * drop, lambda v: f"{v:.2f}", "{:.4f}")
        amount = ("0.00" if amount == "-0.00" else amount) + (" %" if limit.relative else " points")
    before, after = place.before, place.after
    return f"{amount} ({metric_value(before.value)} → {metric_value(after.value)}, n = {after.n})"


MetricDropLimit = Annotated[
    Annotated[MetricDrop, BeforeValidator(_parse), Field(json_schema_extra={"expected": _WORDS})] | None,
    MetricDropBudget,
    Field(
        description="Most that the metric may fall below the float model's, on the part that the verdict is taken on.",
        examples=["1 point"],
    ),
]
