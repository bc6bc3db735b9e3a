"""The picture of a gate: each pair's ratio in the order it was measured, and the bounds at each look."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil, log
from typing import Any

from markupsafe import Markup

from ..svg import add, markup, svg
from .record import LatencyResult

HEIGHT = 220
LEFT, RIGHT, BOTTOM = 9.0, 99.0, 190.0  # horizontal in per cent, vertical in pixels
TOP = 12.0
LEAST = 8.0  # per cent that the vertical axis reaches at the least


def pair_ratios(found: LatencyResult, limits: Mapping[str, Any]) -> Markup:
    """Dots: each pair's change in per cent; whiskers: the bounds at a look; dashed: tolerance and budget."""
    changes = _changes(found)
    if not changes:
        return Markup("")
    last = found.looks[-1] if found.looks else None
    told = f", bounds {100 * (last.lower - 1):+.1f} to {100 * (last.upper - 1):+.1f} %" if last else ""
    chart = svg(HEIGHT, f"Change of latency pair by pair, {len(changes)} pairs{told}")
    reach = _reach(changes, found)

    def y(change: float) -> float:
        return TOP + (BOTTOM - TOP) * (reach - max(-reach, min(reach, change))) / (2 * reach)

    def x(pair: float) -> str:
        return f"{LEFT + (RIGHT - LEFT) * pair / len(changes):.2f}%"

    for change, css in (
        (0.0, "grid"),
        (100 * limits["tolerance"], "reference"),
        (100 * limits["budget"], "reference"),
    ):
        add(chart, "line", css, x1=f"{LEFT}%", x2=f"{RIGHT}%", y1=f"{y(change):.1f}", y2=f"{y(change):.1f}")
        label = f"{change:+g} %" if change else "0 %"
        add(
            chart, "text", "tick", label, x=f"{LEFT - 1}%", y=f"{y(change) + 4:.1f}", **{"text-anchor": "end"}
        )
    for pair, change in enumerate(changes):
        add(chart, "circle", "point", cx=x(pair + 0.5), cy=f"{y(change):.1f}", r="3")
    for look in found.looks:
        place = x(look.pairs)
        low, high = 100 * (look.lower - 1), 100 * (look.upper - 1)
        add(chart, "line", "whisker", x1=place, x2=place, y1=f"{y(high):.1f}", y2=f"{y(low):.1f}")
        add(
            chart, "text", "tick", f"{look.pairs} pairs", x=place, y=f"{BOTTOM + 18:.0f}", **{"text-anchor": "end"}
        )  # fmt: skip
    return markup(chart)


def _changes(found: LatencyResult) -> list[float]:
    sides: dict[str, dict[int, float]] = {"baseline": {}, "candidate": {}}
    for row in found.launches:
        sides[row.side][row.pair] = row.median_ms
    return [
        100 * (sides["candidate"][pair] / sides["baseline"][pair] - 1) for pair in sorted(sides["baseline"])
    ]


def _reach(changes: list[float], found: LatencyResult) -> float:
    """Per cent above and below no change: whole steps of a round number."""
    bounds = [100 * abs(b - 1) for look in found.looks[-1:] for b in (look.lower, look.upper)]
    largest = max([LEAST, *map(abs, changes), *bounds])
    step = 10 ** int(log(largest, 10))
    return float(step * ceil(largest / step))
