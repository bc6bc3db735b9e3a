"""The picture of a table of latencies: what it predicts of each network, against what that took."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree

from markupsafe import Markup

from ...calibration.latency_table import Probe
from ..pages.axis import PAD, Axis
from ..pages.svg import add, markup, svg
from ..pages.words import ms, percent

TOP, PLOT, BELOW = 26, 320, 40  # pixels
LEFT, WIDTH = 8.0, 90.0  # per cent

BAND = 0.1
"""Of the error that the dashed lines show."""


def scatter(probes: Sequence[Probe]) -> Markup:
    """Every probe that was predicted; a solid line where both are alike, dashed ones 10 % from it."""
    found = [(probe.ms, probe.predicted_ms) for probe in probes if probe.predicted_ms is not None]
    if not found:
        return Markup("")
    chart = svg(TOP + PLOT + BELOW, f"Predicted against measured latency of {len(found)} networks")
    axis = Axis(0.0, (1 + PAD) * max(max(pair) for pair in found))
    for tick in axis.ticks():
        x, y = _across(axis, tick), _down(axis, tick)
        add(chart, "line", "grid", x1=x, x2=x, y1=f"{TOP}", y2=f"{TOP + PLOT}")
        add(chart, "line", "grid", x1=f"{LEFT}%", x2=f"{LEFT + WIDTH}%", y1=y, y2=y)
        add(chart, "text", "tick", f"{tick:g}", x=x, y=f"{TOP + PLOT + 17}", **{"text-anchor": "middle"})
        add(chart, "text", "tick", f"{tick:g}", x=f"{LEFT - 1}%", y=y, **{"text-anchor": "end"})
    for slope, css in ((1.0, "front-line"), (1 - BAND, "reference"), (1 + BAND, "reference")):
        _line(chart, axis, slope, css)
    for measured, predicted in found:
        dot = add(chart, "circle", "point", cx=_across(axis, measured), cy=_down(axis, predicted), r="4")
        error = percent(predicted / measured - 1, 1)
        add(dot, "title", "", f"measured {ms(measured)}, predicted {ms(predicted)} ({error})")
    add(chart, "text", "tick", "predicted, ms", x="0", y="12")
    ends = {"x": f"{LEFT + WIDTH}%", "y": f"{TOP + PLOT + 35}", "text-anchor": "end"}
    add(chart, "text", "tick", "measured, ms", **ends)
    return markup(chart)


def _line(chart: ElementTree.Element, axis: Axis, slope: float, css: str) -> None:
    """From the origin to where it leaves the plot."""
    end = min(axis.high, axis.high / slope)
    places = {
        "x1": _across(axis, 0),
        "y1": _down(axis, 0),
        "x2": _across(axis, end),
        "y2": _down(axis, slope * end),
    }
    add(chart, "line", css, **places)


def _across(axis: Axis, value: float) -> str:
    return f"{LEFT + WIDTH * axis.share(value):.2f}%"


def _down(axis: Axis, value: float) -> str:
    return f"{TOP + PLOT * (1 - axis.share(value)):.1f}"
