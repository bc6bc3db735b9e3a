"""The trade-off of a series of pruned networks: what each is worth against the share of the cost left in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from xml.etree import ElementTree

from markupsafe import Markup

from ...text import short
from ..pages.axis import Axis, axis_over
from ..pages.svg import add, markup, svg
from ..pages.words import metric_value, percent
from .pruning import Z95, Point, Pruning

TOP, HEIGHT, AXIS_HEIGHT = 30, 170, 40
ABOVE, BELOW, ASIDE = -8, 18, 1.6  # of a mark's label: pixels, pixels, per cent
LEFT, WIDTH = 13.0, 82.0  # per cent; labels of the vertical axis stand left of it


@dataclass(frozen=True)
class Mark:
    """A network: the share of the cost left, its value with the bounds that are known, and whether it was chosen."""

    share: float
    value: float
    error: float | None
    chosen: bool

    @property
    def bounds(self) -> tuple[float, ...]:
        """The ends of its 95 % interval, () where they are not known."""
        return () if self.error is None else (self.value - Z95 * self.error, self.value + Z95 * self.error)


@dataclass(frozen=True)
class Scale:
    """The vertical measure: what it is called, how a value is written, and whether less is better."""

    title: str
    text: Callable[[float], str]
    down: bool


def trade_offs(pruned: Pruning) -> list[Markup]:
    """The metric, and the divergence from the network before, against the share of the cost that is left."""
    metric = [_mark(point, point.metric, point.metric_error) for point in pruned.series]
    divergence = [_mark(point, point.kl, None) for point in pruned.series]
    drawn = (
        (metric, Scale(short(pruned.step.metric.name, 40), metric_value, down=False)),
        (divergence, Scale("KL to the network before, nats", "{:.3g}".format, down=True)),
    )
    charts = (_chart([m for m in marks if m is not None], scale, pruned.cost) for marks, scale in drawn)
    return [chart for chart in charts if chart]


def _mark(point: Point, value: float | None, error: float | None) -> Mark | None:
    if point.share is None or value is None:
        return None
    return Mark(point.share, value, error, point.chosen)


def _chart(marks: Sequence[Mark], scale: Scale, cost: str) -> Markup:
    """Every network as a mark with its interval, joined by a line, the chosen one filled; "" for fewer than two."""
    if len(marks) < 2:
        return Markup("")
    ordered = sorted(marks, key=lambda mark: mark.share)
    spoken = ", ".join(f"{scale.text(m.value)} at {percent(m.share, 1)}" for m in ordered)
    plot = _Plot(
        svg(TOP + HEIGHT + AXIS_HEIGHT, f"{scale.title} against the share of {cost} left: {spoken}"),
        axis_over([mark.share for mark in marks], from_zero=False),
        axis_over([v for mark in marks for v in (mark.value, *mark.bounds)], from_zero=scale.down),
    )
    _draw_axes(plot, scale, cost)
    for one, other in pairwise(ordered):
        plot.line("front-line", plot.x(one), plot.y(one.value), plot.x(other), plot.y(other.value))
    for index, mark in enumerate(ordered):
        _draw_mark(plot, mark, scale)
        _draw_label(plot, index, ordered, scale)
    return markup(plot.svg)


@dataclass(frozen=True)
class _Plot:
    svg: ElementTree.Element
    across: Axis
    along: Axis

    def x(self, mark: Mark) -> float:
        return LEFT + WIDTH * self.across.share(mark.share)

    def y(self, value: float) -> float:
        return TOP + HEIGHT * (1 - self.along.share(value))

    def line(self, css: str, x1: float, y1: float, x2: float, y2: float) -> None:
        ends = {"x1": f"{x1:.2f}%", "y1": f"{y1:.1f}", "x2": f"{x2:.2f}%", "y2": f"{y2:.1f}"}
        add(self.svg, "line", css, **ends)

    def text(self, css: str, text: str, x: float, y: float, anchor: str) -> None:
        add(self.svg, "text", css, text, x=f"{x:.2f}%", y=f"{y:.1f}", **{"text-anchor": anchor})


def _draw_axes(plot: _Plot, scale: Scale, cost: str) -> None:
    bottom, right = TOP + HEIGHT, LEFT + WIDTH
    plot.text("tick", f"{scale.title} ({'lower' if scale.down else 'higher'} is better)", 0, 12, "start")
    for tick in plot.along.ticks():
        y = TOP + HEIGHT * (1 - plot.along.share(tick))
        plot.line("grid", LEFT, y, right, y)
        plot.text("tick", scale.text(tick).replace(".00 ", " "), LEFT - 1.5, y + 4, "end")
    for tick in plot.across.ticks():
        x = LEFT + WIDTH * plot.across.share(tick)
        plot.line("grid", x, TOP, x, bottom)
        plot.text("tick", f"{100 * tick:g} %", x, bottom + 17, "middle")
    plot.text("tick", f"share of {cost} left", right, bottom + 35, "end")


def _draw_mark(plot: _Plot, mark: Mark, scale: Scale) -> None:
    text = scale.text(mark.value)
    x, y = plot.x(mark), plot.y(mark.value)
    if mark.bounds:
        ends = [plot.y(bound) for bound in mark.bounds]
        plot.line("spread int8", x, ends[0], x, ends[1])
    kind = "front" if mark.chosen else ""
    circle = add(plot.svg, "circle", f"mark int8 {kind}".strip(), cx=f"{x:.2f}%", cy=f"{y:.1f}", r="5")
    ElementTree.SubElement(circle, "title").text = f"{text} at {percent(mark.share, 1)}"


def _draw_label(plot: _Plot, index: int, ordered: Sequence[Mark], scale: Scale) -> None:
    """The value of a mark beside it, on the side of the line that goes away from it."""
    mark, x = ordered[index], plot.x(ordered[index])
    left = x > LEFT + 0.7 * WIDTH
    at = index - 1 if left else index + 1
    rises = 0 <= at < len(ordered) and ordered[at].value > mark.value
    y = plot.y(mark.value)
    y += BELOW if rises and y + BELOW < TOP + HEIGHT else ABOVE
    text = f"{scale.text(mark.value)}, chosen" if mark.chosen else scale.text(mark.value)
    place, anchor = (x - ASIDE, "end") if left else (x + ASIDE, "start")
    plot.text("mark-name" if mark.chosen else "mark-number", text, place, y, anchor)
