"""The Pareto fronts of a comparison: which rows may be compared in two measures, and where each one stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from ...text import short
from ..pages.words import byte_size, metric_value
from ..report.charts import Strip, latency_strips
from ..report.view import PRECISION_CSS
from .charts import Mark, Scale, front_chart
from .collect import Cell, Comparison, Row
from .groups import Group
from .pareto import Estimate, Point, Standing, estimated, exact, standings

KINDS = ("front", "undecided", "dominated")
DIGEST = 12  # characters of a data manifest that tell data sets apart
Ground = tuple[str, str, int, str]
"""What two metrics must share to be compared: name, part of the data, sample count, data set."""


@dataclass(frozen=True)
class Member:
    """A row in a front's table, under its number in the chart. words: why it is, or is not, on the front."""

    number: int
    row: Row
    cell: Cell
    kind: str
    words: str


@dataclass(frozen=True)
class Front:
    """Latency against one other measure, of rows that may be compared in both."""

    measure: str
    ground: str
    members: list[Member]
    chart: Markup


@dataclass(frozen=True)
class Bench:
    """One device under the conditions of one group: the rows timed there, their fronts and their latencies."""

    group: Group
    device: str
    rows: list[Row]
    fronts: list[Front]
    strips: Markup


def benches(comparison: Comparison) -> list[Bench]:
    """Every device that something was timed on, group by group."""
    data = {source.name: source.data for source in comparison.sources}
    found = []
    for group in comparison.groups:
        for device in comparison.devices:
            rows = [row for row in comparison.rows_of(group) if row.cell(device).latency is not None]
            if rows:
                strips = latency_strips([_strip(row, row.cell(device)) for row in rows])
                found.append(Bench(group, device, rows, _fronts(rows, device, data), strips))
    return found


def _strip(row: Row, cell: Cell) -> Strip:
    assert cell.latency is not None
    return Strip(colour(cell), row.name, cell.latency.p50, cell.latency.samples_ms)


def colour(cell: Cell) -> str:
    """The CSS class of the precision that most of the arithmetic was executed in."""
    precision = cell.engine.precision if cell.engine is not None else {}
    most = max(precision, key=lambda name: precision[name], default="")
    return PRECISION_CSS.get(most, "other")


def _fronts(rows: Sequence[Row], device: str, data: Mapping[str, str]) -> list[Front]:
    """A front for each metric and data set; one by engine size, of all rows, where any row is on none of these."""
    by_ground: dict[Ground, list[Row]] = {}
    sized = [row for row in rows if row.cell(device).engine_bytes is not None]
    for row in rows:
        metric = row.cell(device).metric
        if metric is not None:
            ground = (metric.name, metric.part, metric.n, data[row.source])
            by_ground.setdefault(ground, []).append(row)
    found = [_metric_front(own, device, ground) for ground, own in by_ground.items() if len(own) > 1]
    if sum(len(front.members) for front in found) < len(rows) and len(sized) > 1:
        found.append(_size_front(sized, device))
    return found


def _metric_front(rows: Sequence[Row], device: str, ground: Ground) -> Front:
    name, part, n, data = ground
    scale = Scale(short(name, 40), metric_value, more_is_better=True)
    points = []
    for cell in (row.cell(device) for row in rows):
        assert cell.metric is not None
        points.append(Point(_latency(cell), estimated(cell.metric.value, cell.metric.ci95)))
    return _front(rows, device, points, scale, f"{part}, n = {n:,}, data {data[:DIGEST]}")


def _size_front(rows: Sequence[Row], device: str) -> Front:
    scale = Scale("engine size", byte_size, more_is_better=False)
    cells = [row.cell(device) for row in rows]
    points = [Point(_latency(cell), exact(cell.engine_bytes or 0)) for cell in cells]
    return _front(rows, device, points, scale, "of the files that the runtime opens")


def _latency(cell: Cell) -> Estimate:
    assert cell.latency is not None
    return estimated(cell.latency.p50, cell.latency.ci95)


def _front(rows: Sequence[Row], device: str, points: Sequence[Point], scale: Scale, ground: str) -> Front:
    found = standings(points, scale.more_is_better)
    order = sorted(range(len(rows)), key=lambda i: (KINDS.index(found[i].kind), points[i].x.value))
    number = {index: place for place, index in enumerate(order, 1)}
    marks, members = [], []
    for i in order:
        row, cell, standing = rows[i], rows[i].cell(device), found[i]
        told = (
            _superlatives(points[i], points, scale)
            if standing.by is None
            else _behind(standing, scale, number[standing.by])
        )
        marks.append(Mark(number[i], row.name, colour(cell), points[i], standing))
        members.append(Member(number[i], row, cell, standing.kind, told))
    return Front(scale.title, ground, members, front_chart(marks, scale))


def _superlatives(point: Point, points: Sequence[Point], scale: Scale) -> str:
    """What a member of the front is first in."""
    ys = [p.y.value for p in points]
    firsts = []
    if point.x.value == min(p.x.value for p in points):
        firsts.append("the fastest")
    if point.y.value == (max(ys) if scale.more_is_better else min(ys)):
        firsts.append(f"the best in {scale.title}" if scale.more_is_better else "the smallest")
    return f"on the front: {' and '.join(firsts) or 'between its neighbours in both'}"


def _behind(standing: Standing, scale: Scale, other: int) -> str:
    """Why a row is not on the front; other: the number of the row that is ahead of it."""
    if standing.kind == "dominated":
        worse = f"lower in {scale.title}" if scale.more_is_better else "larger"
        return f"dominated by {other}: slower and {worse}, beyond the intervals"
    measures = zip(("latency", scale.title), standing.clear, strict=True)
    return f"not told apart from {other} in {' and '.join(name for name, clear in measures if not clear)}"
