"""Inline SVG for the comparison: latency against a second measure, with intervals and the Pareto front.

In the manner of `report_charts`: horizontal coordinates are per cent, texts escaped, colours CSS classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from xml.etree import ElementTree

from markupsafe import Markup

from ...text import short
from ..pages.axis import Axis, axis_over
from ..pages.svg import add, markup, svg
from ..pages.words import bare_ms
from .pareto import Estimate, Point, Standing

PLOT_TOP, PLOT_HEIGHT, AXIS_HEIGHT = 32, 300, 40
PLOT_LEFT, PLOT_WIDTH = 8.0, 90.0  # per cent; labels of the vertical axis stand left of it
LABEL_LIMIT = 44
LABEL_STEP = 15  # pixels between labels that would lie on each other
LABEL_TRIES = 9
CHARACTER = 0.8  # per cent of the width that a character takes, at about 900 pixels


@dataclass(frozen=True)
class Mark:
    """A point of the chart: its number in the table below, its name, and its colour (a CSS class)."""

    number: int
    name: str
    css: str
    point: Point
    standing: Standing


@dataclass(frozen=True)
class Scale:
    """The vertical measure of a chart: what it is called, how a value is written, and what is better."""

    title: str
    text: Callable[[float], str]
    more_is_better: bool


@dataclass(frozen=True)
class _Plot:
    svg: ElementTree.Element
    x: Axis
    y: Axis
    labels: list[tuple[float, float, float]] = field(default_factory=list)
    """Left and right in per cent, and the height in pixels, of every label drawn so far."""

    def left(self, value: float) -> float:
        return PLOT_LEFT + PLOT_WIDTH * self.x.share(value)

    def top(self, value: float) -> float:
        return PLOT_TOP + PLOT_HEIGHT * (1 - self.y.share(value))


def front_chart(marks: Sequence[Mark], scale: Scale) -> Markup:
    """Every mark with its 95 % whiskers; those of the front are filled, named, and joined by a line."""
    front = sorted((m for m in marks if m.standing.kind == "front"), key=lambda m: m.point.x.value)
    spoken = f"Latency against {scale.title}. On the front: {', '.join(mark.name for mark in front)}"
    plot = _Plot(
        svg=svg(PLOT_TOP + PLOT_HEIGHT + AXIS_HEIGHT, spoken),
        x=axis_over(_held(m.point.x for m in marks), from_zero=True),
        y=axis_over(_held(m.point.y for m in marks), from_zero=not scale.more_is_better),
    )
    _draw_axes(plot, scale)
    for one, other in pairwise(front):
        _line(plot, "front-line", *_place(plot, one), *_place(plot, other))
    for mark in marks:
        _draw_whiskers(plot, mark)
    for mark in marks:
        _draw_mark(plot, mark)
    for mark in sorted(marks, key=lambda m: m.standing.kind != "front"):
        _draw_label(plot, mark)
    return markup(plot.svg)


def _held(estimates: Iterable[Estimate]) -> Iterator[float]:
    """What an axis is to hold: the values and their bounds."""
    for estimate in estimates:
        yield from (estimate.value, estimate.low, estimate.high)


def _draw_axes(plot: _Plot, scale: Scale) -> None:
    bottom, right = PLOT_TOP + PLOT_HEIGHT, PLOT_LEFT + PLOT_WIDTH
    better = "higher" if scale.more_is_better else "lower"
    _text(plot, "tick", f"{short(scale.title, 60)} ({better} is better)", 0, 12, "start")
    for tick in plot.y.ticks():
        y = plot.top(tick)
        _line(plot, "grid", PLOT_LEFT, y, right, y)
        _text(plot, "tick", scale.text(tick).replace(".00 ", " "), PLOT_LEFT - 1, y + 4, "end")
    for tick in plot.x.ticks():
        x = plot.left(tick)
        _line(plot, "grid", x, PLOT_TOP, x, bottom)
        _text(plot, "tick", f"{tick:g}" if tick < 1000 else bare_ms(tick), x, bottom + 17, "middle")
    scaled = ", logarithmic" if plot.x.logarithmic else ""
    _text(plot, "tick", f"latency p50, ms{scaled} (left is better)", right, bottom + 35, "end")


def _draw_whiskers(plot: _Plot, mark: Mark) -> None:
    """The 95 % intervals; a bound that is not known is not drawn."""
    x, y = _place(plot, mark)
    across, along = mark.point.x, mark.point.y
    css = f"spread {mark.css} {mark.standing.kind}"
    if math.isfinite(across.low) and math.isfinite(across.high):
        _line(plot, css, plot.left(across.low), y, plot.left(across.high), y)
    if math.isfinite(along.low) and math.isfinite(along.high):
        _line(plot, css, x, plot.top(along.low), x, plot.top(along.high))


def _draw_mark(plot: _Plot, mark: Mark) -> None:
    x, y = _place(plot, mark)
    place = {"cx": f"{x:.2f}%", "cy": f"{y:.1f}", "r": "5"}
    circle = ElementTree.SubElement(
        plot.svg, "circle", {"class": f"mark {mark.css} {mark.standing.kind}", **place}
    )
    ElementTree.SubElement(circle, "title").text = f"{mark.number} {short(mark.name)}"


def _draw_label(plot: _Plot, mark: Mark) -> None:
    """The number of a mark, and the name of one on the front, where no label lies yet."""
    named = mark.standing.kind == "front"
    text = f"{mark.number} {short(mark.name, LABEL_LIMIT)}" if named else f"{mark.number}"
    x, y = _place(plot, mark)
    to_the_left = x > PLOT_LEFT + PLOT_WIDTH * 0.6
    width = CHARACTER * len(text)
    x += -1 if to_the_left else 1
    start = x - width if to_the_left else x
    y = _free_height(plot, start, start + width, y - 7)
    plot.labels.append((start, start + width, y))
    _text(plot, "mark-name" if named else "mark-number", text, x, y, "end" if to_the_left else "start")


def _free_height(plot: _Plot, start: float, end: float, wanted: float) -> float:
    """The height nearest to the wanted one at which a label meets no other; the wanted one when all are taken."""
    for number in range(LABEL_TRIES):
        steps = (number + 1) // 2 * (1 if number % 2 else -1)  # 0, 1, -1, 2, -2, …
        height = wanted + LABEL_STEP * steps
        meets = (
            abs(y - height) < LABEL_STEP and left < end and start < right for left, right, y in plot.labels
        )
        if PLOT_TOP < height < PLOT_TOP + PLOT_HEIGHT and not any(meets):
            return height
    return wanted


def _place(plot: _Plot, mark: Mark) -> tuple[float, float]:
    return plot.left(mark.point.x.value), plot.top(mark.point.y.value)


def _line(plot: _Plot, css: str, x1: float, y1: float, x2: float, y2: float) -> None:
    ends = {"x1": f"{x1:.2f}%", "y1": f"{y1:.1f}", "x2": f"{x2:.2f}%", "y2": f"{y2:.1f}"}
    add(plot.svg, "line", css, **ends)


def _text(plot: _Plot, css: str, text: str, x: float, y: float, anchor: str) -> None:
    place = {"x": f"{x:.2f}%", "y": f"{y:.1f}", "text-anchor": anchor}
    add(plot.svg, "text", css, text, **place)
