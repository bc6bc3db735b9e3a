"""The picture of a gate: each pair's ratio in the order it was measured, and the bounds at each look."""

from __future__ import annotations

from collections.abc import Mapping
from math import exp
from typing import Any

from markupsafe import Markup

from ..pages.svg import add, markup, svg
from .record import LatencyResult

HEIGHT = 220
LEFT, RIGHT = 11.0, 99.0  # per cent
TOP, BOTTOM = 12.0, 190.0  # pixels
AROUND = 2.0  # per cent that the vertical axis shows beyond what is drawn
LABEL_HEIGHT = 14.0


def pair_ratios(found: LatencyResult, limits: Mapping[str, Any]) -> Markup:
    """Dots: each pair's change in per cent; whiskers: the bounds at a look; dashed: tolerance and budget."""
    changes = [100 * (exp(ratio) - 1) for ratio in found.log_ratios]
    if not changes:
        return Markup("")
    chart = svg(HEIGHT, f"Change of latency pair by pair, {len(changes)} pairs{_spoken(found)}")
    lines = {"budget": 100 * limits["budget"], "no change": 0.0, "tolerance": 100 * limits["tolerance"]}
    bounds = [100 * (bound - 1) for look in found.looks for bound in (look.lower, look.upper)]
    drawn = [*changes, *bounds[-2:], *lines.values()]
    low, high = min(drawn) - AROUND, max(drawn) + AROUND

    def y(change: float) -> float:
        share: float = (high - max(low, min(high, change))) / (high - low)
        return TOP + (BOTTOM - TOP) * share

    def x(pair: float) -> str:
        return f"{LEFT + (RIGHT - LEFT) * pair / len(changes):.2f}%"

    labelled: list[float] = []
    for name, change in lines.items():
        height, css = y(change), "grid" if name == "no change" else "reference"
        add(chart, "line", css, x1=f"{LEFT}%", x2=f"{RIGHT}%", y1=f"{height:.1f}", y2=f"{height:.1f}")
        if all(abs(height - other) >= LABEL_HEIGHT for other in labelled):
            labelled.append(height)
            label = f"{name} {change:+g} %" if change else "no change"
            add(
                chart,
                "text",
                "tick",
                label,
                x=f"{LEFT - 1}%",
                y=f"{height + 4:.1f}",
                **{"text-anchor": "end"},
            )
    for pair, change in enumerate(changes):
        add(chart, "circle", "point", cx=x(pair + 0.5), cy=f"{y(change):.1f}", r="3")
    for look, ends in zip(found.looks, zip(bounds[::2], bounds[1::2], strict=True), strict=True):
        place, (bottom, top) = x(look.pairs), map(y, ends)
        add(chart, "line", "whisker", x1=place, x2=place, y1=f"{top:.1f}", y2=f"{bottom:.1f}")
        label = f"{ends[0]:+.1f} to {ends[1]:+.1f} % after {look.pairs}"
        add(chart, "text", "tick", label, x=place, y=f"{BOTTOM + 18:.0f}", **{"text-anchor": "end"})
    return markup(chart)


def _spoken(found: LatencyResult) -> str:
    last = found.last
    return (
        "" if last is None else f", bounds {100 * (last.lower - 1):+.1f} to {100 * (last.upper - 1):+.1f} %"
    )
