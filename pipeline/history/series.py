"""The series of a history: their levels, the commits at which one gave way to another, and all of it as text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from ...targets.measuring.change_points import FEWEST, change_points
from ...text import short
from ..pages.words import between, byte_size, is_share, metric_interval, metric_value, ms, signed
from .points import Measure, Point

FILE = "file"  # how a user names the device of what was measured on the exported model itself


@dataclass(frozen=True)
class Change:
    """A step between two neighbouring points, `after` at `index`; each level is the median of its points."""

    index: int
    before: Point
    after: Point
    level_before: float
    level_after: float

    @property
    def ratio(self) -> float | None:
        """The new level over the old one; None where the old one is not above 0."""
        return self.level_after / self.level_before if self.level_before > 0 else None

    @property
    def worse(self) -> bool:
        """Whether it became slower, larger or less accurate."""
        if self.after.measure == "metric":
            return self.level_after < self.level_before
        return self.level_after > self.level_before

    @property
    def other_machine(self) -> bool:
        """Whether the two points come from different machines, which alone explains a step in time."""
        return self.before.machine != self.after.machine


@dataclass(frozen=True)
class Series:
    """The points of one model, device and measure, oldest first; `starts`: where each later level begins."""

    points: tuple[Point, ...]
    starts: tuple[int, ...]

    @property
    def latest(self) -> Point:
        """The newest point."""
        return self.points[-1]

    @property
    def levels(self) -> list[tuple[int, int, float]]:
        """Each level as (first point, one past its last, median)."""
        bounds = pairwise((0, *self.starts, len(self.points)))
        return [(start, end, median(p.value for p in self.points[start:end])) for start, end in bounds]

    @property
    def changes(self) -> list[Change]:
        """The steps from one level to the next, oldest first."""
        return [
            Change(start, self.points[start - 1], self.points[start], before, after)
            for (_, _, before), (start, _, after) in pairwise(self.levels)
        ]


def series_of(points: Sequence[Point]) -> list[Series]:
    """The series of a history, by the names of their models. Times of runs order a series, not lines of the file."""
    groups: dict[tuple[str, ...], list[Point]] = {}
    for point in points:
        groups.setdefault(point.series, []).append(point)
    found = []
    for group in sorted(groups.values(), key=lambda group: group[0].model):
        ordered = sorted(group, key=lambda point: point.at)
        values = [p.value if p.measure == "metric" else math.log(p.value) for p in ordered]
        found.append(Series(tuple(ordered), tuple(change_points(values))))
    return found


# -- as text


def device_name(point: Point) -> str:
    """The device, or "file"."""
    return point.device or FILE


def measure_name(point: Point) -> str:
    """What is measured: "latency", "size", or the metric's name."""
    return {"latency_ms": "latency", "bytes": "size"}.get(point.measure, point.unit)


def commit_name(point: Point) -> str:
    """The short hash of a point's commit (a tag stays as it is), or the day of its run where there is none."""
    is_hash = len(point.commit) >= 12 and set(point.commit.lower()) <= set("0123456789abcdef")
    return point.commit[:7] if is_hash else short(point.commit, 16) or f"{point.at:%Y-%m-%d}"


def value_text(measure: Measure, value: float) -> str:
    """A value with its unit, rounded to what a reader needs."""
    if measure == "metric":
        return metric_value(value)
    return ms(value) if measure == "latency_ms" else byte_size(value)


def interval_text(point: Point) -> str:
    """The 95 % interval, its unit once; "exact" for a size, "no interval" where none is known."""
    if point.ci95 is None:
        return "exact" if point.measure == "bytes" else "no interval"
    if point.measure == "metric":
        return metric_interval(point.value, point.ci95)
    low, high = (value_text(point.measure, bound) for bound in point.ci95)
    unit = f" {high.rpartition(' ')[2]}"
    return between(low.removesuffix(unit), high)


def change_text(change: Change) -> str:
    """How far the level moved: "+7.1 %", and for a metric that is a fraction "+0.42 points"."""
    before, after = change.level_before, change.level_after
    if change.after.measure == "metric" and 0 <= before <= 1 and 0 <= after <= 1:
        return f"{_signed(100 * (after - before))} points"
    return _signed(after - before) if change.ratio is None else f"{_signed(100 * (change.ratio - 1))} %"


def unchanged_text(series: Series) -> str:
    """Why a series without changes has none."""
    few = len(series.points) < FEWEST
    return f"too few points, {FEWEST} are needed" if few else "none"


def level_texts(change: Change) -> tuple[str, str]:
    """The two levels, with more digits where rounding would make them look equal."""
    measure = change.after.measure
    levels = (change.level_before, change.level_after)
    before, after = (value_text(measure, v) for v in levels)
    if measure == "metric" and not all(map(is_share, levels)):
        before, after = (f"{v:.4g}" for v in levels)  # both alike, also where one could be a share
    if before == after:
        unit = "" if measure == "metric" else f" {change.after.unit}"
        return f"{change.level_before:,.9g}{unit}", f"{change.level_after:,.9g}{unit}"
    return before, after


def _signed(value: float) -> str:
    """A change with its sign, of two significant digits and at least one decimal."""
    size = math.floor(math.log10(abs(value))) if value else 0
    return signed(value, min(max(1 - size, 1), 9))
