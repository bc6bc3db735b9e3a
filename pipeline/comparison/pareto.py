"""The Pareto front of points that are known only to an interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval, which always holds it: low <= value <= high."""

    value: float
    low: float
    high: float

    def clearly_below(self, other: Estimate) -> bool:
        """Whether the whole interval lies below the other's; intervals that touch are not told apart."""
        return self.high < other.low


def exact(value: float) -> Estimate:
    """A value without uncertainty: its interval is the value itself."""
    return Estimate(value, value, value)


def estimated(value: float, ci95: tuple[float, float]) -> Estimate:
    """A sampled value. A bound that is not known (NaN) is endless: nothing can be told apart by it.

    A median of launches may lie outside the interval of their mean; the interval is widened to hold it.
    """
    low, high = ci95
    return Estimate(
        value,
        -math.inf if math.isnan(low) else min(low, value),
        math.inf if math.isnan(high) else max(high, value),
    )


@dataclass(frozen=True)
class Point:
    """What is traded: of x less is better, of y less or more as `standings` is told."""

    x: Estimate
    y: Estimate


@dataclass(frozen=True)
class Standing:
    """Where a point stands. by: index of the point that is ahead of it; clear: whether x and y tell them apart."""

    kind: Literal["front", "undecided", "dominated"]
    by: int | None = None
    clear: tuple[bool, bool] = (False, False)


def standings(points: Sequence[Point], more_is_better: bool = False) -> list[Standing]:
    """The standing of each point; more_is_better: whether of y more is better, as of an accuracy.

    q is *ahead* of p when its values are at least as good in both measures and better in one.
    q *beats* p when its whole interval is better than the whole interval of p, in both measures.

    front: no point is ahead.
    dominated: a point beats it; `by` is the fastest of those that do.
    undecided: points are ahead, but none beats it: other samples might put it on the front. `by` is the
        fastest of those that are ahead, which itself is on the front.

    Intervals hold their values, so that what beats is also ahead, and every point has exactly one standing.
    Two intervals that are apart differ at more than 95 % confidence: the rule errs towards "undecided".
    """
    turned = [Point(p.x, _negated(p.y)) for p in points] if more_is_better else list(points)
    return [_standing(point, turned) for point in turned]


def _negated(estimate: Estimate) -> Estimate:
    return Estimate(-estimate.value, -estimate.high, -estimate.low)


def _standing(point: Point, points: Sequence[Point]) -> Standing:
    ahead = [index for index, other in enumerate(points) if _is_ahead(other, point)]
    if not ahead:
        return Standing("front")
    beating = [index for index in ahead if all(_clear(points[index], point))]
    by = min(beating or ahead, key=lambda index: (points[index].x.value, points[index].y.value))
    return Standing("dominated" if beating else "undecided", by, _clear(points[by], point))


def _is_ahead(one: Point, other: Point) -> bool:
    mine, theirs = (one.x.value, one.y.value), (other.x.value, other.y.value)
    return mine != theirs and mine[0] <= theirs[0] and mine[1] <= theirs[1]


def _clear(one: Point, other: Point) -> tuple[bool, bool]:
    return one.x.clearly_below(other.x), one.y.clearly_below(other.y)
