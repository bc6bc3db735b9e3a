"""Charts of the history page: one series, commit by commit, with its levels and where they change.

As in report_charts.py, horizontal coordinates are per cent: a chart fits any width, its text keeps its size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from xml.etree import ElementTree

from markupsafe import Markup

from ...text import short
from ..pages.svg import add, markup, svg
from .series import (
    Series,
    change_text,
    commit_name,
    device_name,
    interval_text,
    measure_name,
    value_text,
)

SHOWN = 200  # newest points of a chart; more cannot be told apart
LEFT, RIGHT = 9.0, 96.5  # per cent: labels of the vertical axis stand left of the first point
TOP, PLOT, AXIS = 20, 130, 22  # pixels: labels of changes, the plot, the commits
NAMES = 10  # most commits named below a chart; every other one where it is narrow
APART = 9.0  # per cent that two labels of changes keep
SMALLEST = 1e-12  # half a range that ticks can still be counted in
PADDING = 0.1  # of the range, above and below
MIDDLE = {"text-anchor": "middle"}
UNITS = {"ms": 1.0, "GB": 1e9, "MB": 1e6, "kB": 1e3, "B": 1.0, "%": 0.01, "": 1.0}


def history_chart(series: Series) -> Markup:
    """Every point with its 95 % interval, the median of each level, and a mark where one gives way to the next."""
    first = max(len(series.points) - SHOWN, 0)
    low, high = _range(series, first)
    chart = svg(TOP + PLOT + AXIS, _spoken(series))
    add(chart, "rect", "lane", x="0", width="100%", y=f"{TOP}", height=f"{PLOT}", rx="3")
    for value, text in _ticks(low, high, _unit(series)):
        y = _y(value, low, high)
        add(chart, "line", "grid", x1="0", x2="100%", y1=y, y2=y)
        add(chart, "text", "tick", text, x="4", y=f"{float(y) - 4:.1f}")
    places = _places(len(series.points) - first)
    _draw_changes(chart, series, first, places)
    _draw_points(chart, series, first, places, (low, high))
    _draw_names(chart, series, first, places)
    return markup(chart)


def _draw_changes(chart: ElementTree.Element, series: Series, first: int, places: Sequence[float]) -> None:
    """A vertical mark between the two points of each change; of labels that would overlap, the newer."""
    free = 200.0
    for change in reversed([c for c in series.changes if c.index > first]):
        at = (places[change.index - first - 1] + places[change.index - first]) / 2
        css = "change worse" if change.worse else "change"
        add(chart, "line", css, x1=f"{at:.2f}%", x2=f"{at:.2f}%", y1=f"{TOP - 4}", y2=f"{TOP + PLOT}")
        if free - at >= APART:
            add(chart, "text", css, change_text(change), x=f"{at:.2f}%", y=f"{TOP - 8}", **MIDDLE)
            free = at


def _draw_points(
    chart: ElementTree.Element,
    series: Series,
    first: int,
    places: Sequence[float],
    span: tuple[float, float],
) -> None:
    for start, end, level in series.levels:
        if end > first:
            x1, x2 = places[max(start - first, 0)], places[end - 1 - first]
            y = _y(level, *span)
            add(chart, "line", "level", x1=f"{x1 - 0.4:.2f}%", x2=f"{x2 + 0.4:.2f}%", y1=y, y2=y)
    for place, point in zip(places, series.points[first:], strict=True):
        x = f"{place:.2f}%"
        if point.ci95 is not None:
            low, high = (_y(bound, *span) for bound in point.ci95)
            add(chart, "line", "whisker", x1=x, x2=x, y1=low, y2=high)
        dot = add(chart, "circle", "point", cx=x, cy=_y(point.value, *span), r="3.5")
        told = f"{commit_name(point)}, {point.at:%Y-%m-%d %H:%M}: {value_text(point.measure, point.value)}"
        add(dot, "title", "", f"{told} ({interval_text(point)})")


def _draw_names(chart: ElementTree.Element, series: Series, first: int, places: Sequence[float]) -> None:
    """Commits below the axis, evenly thinned from the newest on, which is always named."""
    every = math.ceil(len(places) / NAMES)
    named = range(len(places) - 1, -1, -every)
    for count, index in enumerate(named):
        css = "tick second" if count % 2 else "tick"
        name = short(commit_name(series.points[first + index]), 10)
        add(chart, "text", css, name, x=f"{places[index]:.2f}%", y=f"{TOP + PLOT + 16}", **MIDDLE)


def _spoken(series: Series) -> str:
    latest = series.latest
    now = f"{value_text(latest.measure, latest.value)} at {commit_name(latest)}"
    changes = [
        f"{change_text(c)} at {commit_name(c.after)}{', worse' if c.worse else ''}" for c in series.changes
    ]
    told = f"changes: {'; '.join(changes)}" if changes else "no change"
    what = f"{measure_name(latest)} of {latest.model}, {device_name(latest)}"
    return f"{what}, {len(series.points)} points, latest {now}, {told}"


def _range(series: Series, first: int) -> tuple[float, float]:
    """The lowest and highest value that the chart holds, with room around them; never a single value."""
    shown = series.points[first:]
    values = [value for point in shown for value in (point.value, *(point.ci95 or ()))]
    values += [level for _, end, level in series.levels if end > first]
    low, high = min(values), max(values)
    room = PADDING * (high - low) or 0.05 * abs(high)
    if room < SMALLEST:
        room = 1.0
    return low - room, high + room


def _unit(series: Series) -> str:
    if series.latest.measure == "latency_ms":
        return "ms"
    values = [point.value for point in series.points]
    if series.latest.measure == "metric":
        return "%" if all(0 <= value <= 1 for value in values) else ""
    return next(unit for unit in ("GB", "MB", "kB", "B") if max(values) >= UNITS[unit] or unit == "B")


def _ticks(low: float, high: float, unit: str) -> list[tuple[float, str]]:
    """Two to five round values between `low` and `high`, and their texts."""
    scale = UNITS[unit]
    rough = (high - low) / scale / 4
    base = 10.0 ** math.floor(math.log10(rough))
    step = next((factor * base for factor in (1, 2, 2.5, 5) if factor * base >= rough), 10 * base)
    counts = range(math.ceil(low / scale / step), math.floor(high / scale / step) + 1)
    return [(count * step * scale, f"{count * step:,.9g} {unit}".rstrip()) for count in counts]


def _places(count: int) -> list[float]:
    """Horizontal positions, in per cent; a single point stands in the middle."""
    if count == 1:
        return [(LEFT + RIGHT) / 2]
    return [LEFT + (RIGHT - LEFT) * index / (count - 1) for index in range(count)]


def _y(value: float, low: float, high: float) -> str:
    return f"{TOP + PLOT * (high - value) / (high - low):.1f}"
