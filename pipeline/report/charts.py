"""Inline SVG for the report. Horizontal coordinates are per cent: it fits any width, its text keeps its size.

Every text goes through ElementTree, which escapes it. Colours are CSS classes, for dark mode and print.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from xml.etree import ElementTree

from markupsafe import Markup

from ...text import short
from ..pages.svg import add, markup, svg
from ..pages.words import metric_interval, metric_value, ms

GRID = 1000  # horizontal positions that a dot can take: finer ones cannot be told apart
DOTS = 2000  # most dots of one engine; evenly thinned beyond, the medians are of all samples
LANES_HEIGHT = 44
TITLE_HEIGHT = 24
ROW_GAP = 16
AXIS_HEIGHT = 24
BEYOND = 0.95  # the axis ends behind this share of every engine's samples; the others are counted
HEADROOM = 1.1
CURVE_HEIGHT = 72
CURVE_MARGIN = 6


@dataclass(frozen=True)
class Strip:
    """One engine of a latency chart; launches: raw samples in ms, one list a process launch."""

    css: str
    title: str
    p50: float
    launches: Sequence[Sequence[float]]


def latency_strips(strips: Sequence[Strip]) -> Markup:
    """Every engine's samples on one axis from 0: a lane of dots a launch, its median, and that of all."""
    end = _axis_end(strips)
    height = len(strips) * (TITLE_HEIGHT + LANES_HEIGHT + ROW_GAP) + AXIS_HEIGHT
    names = ", ".join(f"{s.title}: median {ms(s.p50)}" for s in strips)
    image = svg(height, f"Latency distributions. {names}")
    bottom = height - AXIS_HEIGHT
    for tick in _ticks(end):
        x = _x(tick, end)
        add(image, "line", "grid", x1=x, x2=x, y1="0", y2=str(bottom))
        anchor = "start" if tick == 0 else "end" if tick > 0.97 * end else "middle"
        label = f"{tick:g}" + (" ms" if tick == 0 else "")
        add(image, "text", "tick", label, x=x, y=str(bottom + 16), **{"text-anchor": anchor})
    for index, strip in enumerate(strips):
        _draw_strip(image, strip, end, top=index * (TITLE_HEIGHT + LANES_HEIGHT + ROW_GAP))
    return markup(image)


def _axis_end(strips: Sequence[Strip]) -> float:
    ends = [strip.p50 for strip in strips]
    for strip in strips:
        ordered = sorted(_finite([sample for launch in strip.launches for sample in launch]))
        if ordered:
            ends.append(ordered[min(len(ordered) - 1, math.floor(BEYOND * len(ordered)))])
    return HEADROOM * max(ends, default=1.0) or 1.0


def _draw_strip(image: ElementTree.Element, strip: Strip, end: float, top: float) -> None:
    launches = [samples for samples in map(_finite, strip.launches) if samples]
    beyond = [sample for samples in launches for sample in samples if sample > end]
    end_anchor = {"text-anchor": "end"}
    title = add(image, "text", "row-title", short(strip.title, 60), x="0", y=f"{top + 15}")
    if beyond:
        add(title, "tspan", "tick", f"{len(beyond):,} beyond the axis, up to {ms(max(beyond))}", dx="10")
    add(image, "text", "row-value", ms(strip.p50), x="100%", y=f"{top + 15}", **end_anchor)
    lanes_top = top + TITLE_HEIGHT
    add(image, "rect", "lane", x="0", width="100%", y=f"{lanes_top}", height=f"{LANES_HEIGHT}", rx="3")
    x = _x(strip.p50, end)
    add(image, "rect", f"reach {strip.css}", x="0", width=x, y=f"{lanes_top}", height=f"{LANES_HEIGHT}")
    dots = add(
        image, "svg", "", x="0", y=f"{lanes_top}", width="100%", height=f"{LANES_HEIGHT}",
        viewBox=f"0 0 {GRID} {LANES_HEIGHT}", preserveAspectRatio="none",
    )  # fmt: skip
    lane = LANES_HEIGHT / max(len(launches), 1)
    path, medians = [], []
    for index, samples in enumerate(launches):
        y = round((index + 0.5) * lane, 1)
        places = sorted({round(GRID * sample / end) for sample in samples if sample <= end})
        thinned = places[:: math.ceil(len(places) * len(launches) / DOTS) or 1]
        path += [f"M{place} {y:g}h0" for place in thinned]
        at = GRID * min(median(samples) / end, 1)
        medians.append(f"M{at:.1f} {y - 0.42 * lane:.1f}V{y + 0.42 * lane:.1f}")
    add(dots, "path", f"dots {strip.css}", d="".join(path))
    add(dots, "path", f"medians {strip.css}", d="".join(medians))
    bottom = lanes_top + LANES_HEIGHT
    add(image, "line", f"p50 {strip.css}", x1=x, x2=x, y1=f"{lanes_top - 3}", y2=f"{bottom + 3}")


def interval(value: float, ci95: tuple[float, float], reference: float, span: tuple[float, float]) -> Markup:
    """A metric as a dot with its 95 % interval, the float model's as a dashed line, on the axis `span`; where known."""
    ends = all(map(math.isfinite, ci95))
    told = f"95 % interval {metric_interval(value, ci95)}" if ends else "no interval"
    image = svg(22, f"{metric_value(value)}, {told}")
    low, high = span

    def place(v: float) -> str:
        return f"{4 + 92 * (min(max(v, low), high) - low) / ((high - low) or 1):.2f}%"

    if math.isfinite(reference):
        add(image, "line", "reference", x1=place(reference), x2=place(reference), y1="0", y2="22")
    if ends:
        add(image, "line", "whisker", x1=place(ci95[0]), x2=place(ci95[1]), y1="11", y2="11")
    if math.isfinite(value):
        add(image, "circle", "point", cx=place(value), cy="11", r="4")
    return markup(image)


def curve(values: Sequence[float | None], kept: int | None, label: str) -> Markup:
    """A value for each epoch from 0 on, as a line over its own range; the kept epoch is a dashed line."""
    known = [
        (epoch, value) for epoch, value in enumerate(values) if value is not None and math.isfinite(value)
    ]
    if not known:
        return Markup("")
    low, high = min(v for _, v in known), max(v for _, v in known)
    last = max(len(values) - 1, 1)
    image = svg(
        CURVE_HEIGHT + AXIS_HEIGHT, f"{label}, epoch by epoch: {', '.join(f'{v:.4g}' for _, v in known)}"
    )
    add(image, "rect", "lane", x="0", width="100%", y="0", height=f"{CURVE_HEIGHT}", rx="3")
    if kept is not None:
        x = _x(kept, last)
        add(image, "line", "reference", x1=x, x2=x, y1="0", y2=f"{CURVE_HEIGHT}")
    line = add(
        image, "svg", "", x="0", y="0", width="100%", height=f"{CURVE_HEIGHT}",
        viewBox=f"0 0 {GRID} {CURVE_HEIGHT}", preserveAspectRatio="none",
    )  # fmt: skip
    inside = CURVE_HEIGHT - 2 * CURVE_MARGIN
    places = [
        f"{GRID * epoch / last:.1f} {CURVE_MARGIN + inside * (high - value) / ((high - low) or 1):.1f}"
        for epoch, value in known
    ]
    add(line, "path", "curve", d="M" + "L".join(places))
    told = f"{label}: {known[0][1]:.4g} to {known[-1][1]:.4g}, from {low:.4g} to {high:.4g}"
    add(image, "text", "tick", f"epoch {known[0][0]}", x="0", y=f"{CURVE_HEIGHT + 16}")
    add(image, "text", "tick", told, x="50%", y=f"{CURVE_HEIGHT + 16}", **{"text-anchor": "middle"})
    add(image, "text", "tick", f"{last}", x="100%", y=f"{CURVE_HEIGHT + 16}", **{"text-anchor": "end"})
    return markup(image)


def _finite(samples: Sequence[float]) -> list[float]:
    return [sample for sample in samples if math.isfinite(sample)]


def _ticks(end: float) -> list[float]:
    """Round numbers from 0 to `end`, about five of them."""
    rough = end / 5
    base = 10.0 ** math.floor(math.log10(rough))
    step = next((factor * base for factor in (1, 2, 2.5, 5) if factor * base >= rough), 10 * base)
    return [round(i * step, 9) for i in range(math.floor(end / step) + 1)]


def _x(value: float, end: float) -> str:
    return f"{100 * min(value / end, 1):.2f}%"
