"""The share of an engine's multiply-accumulates that is executed in INT8, and what is not, in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..macs import listed
from ..targets.layer import Layer
from ..text import short
from .pages.words import NOT_MEASURED, UNKNOWN, count_size, known, ms, percent
from .report.layers import heaviness
from .run_record import EngineRecord

INT8 = "int8"
NAMED = 5
"""Layers that a failed budget lists, those with the most multiply-accumulates first."""


@dataclass(frozen=True)
class Int8Share:
    """Between `low` and `high`, which are one where all is counted. uncounted: the layers that leave it open."""

    low: float
    high: float
    uncounted: tuple[Layer, ...] = ()

    def text(self, decimals: int = 1) -> str:
        """ "97.1 %", or what is known of it."""
        if self.low == self.high:
            return percent(self.low, decimals)
        if self.high < 1:
            return f"{UNKNOWN}, at most {percent(self.high, decimals)}"
        return f"{UNKNOWN}, at least {percent(self.low, decimals)}" if self.low > 0 else UNKNOWN


def int8_share(engine: EngineRecord | None) -> Int8Share | None:
    """The share by the runtime's own word; None when it does not tell what its layers execute in.

    A layer whose multiply-accumulates cannot be counted may have none or nearly all of them.
    """
    if engine is None:
        return None
    uncounted = tuple(layer for layer in engine.layers if layer.macs is None)
    if not uncounted:
        share = engine.precision.get(INT8, 0.0)
        return Int8Share(share, share) if engine.precision and known(share) else None
    counted = sum(layer.macs or 0 for layer in engine.layers)
    in_int8 = sum(layer.macs or 0 for layer in engine.layers if layer.precision == INT8)
    low = high = in_int8 / counted if counted else None
    if any(layer.precision != INT8 for layer in uncounted):
        low = 0.0
    if any(layer.precision == INT8 for layer in uncounted):
        high = 1.0
    # With nothing counted, layers that are all in INT8 are all there is, and layers that are all in float too.
    return Int8Share(1.0 if low is None else low, 0.0 if high is None else high, uncounted)


def int8_share_text(engine: EngineRecord | None) -> str:
    """The share for a table, with the layers that leave it open."""
    share = int8_share(engine)
    if share is None:
        return NOT_MEASURED
    return share.text() + (f": {uncounted_text(share.uncounted)}" if share.low != share.high else "")


def uncounted_text(layers: Sequence[Layer]) -> str:
    """Why a share is unknown."""
    names = [f"{short(layer.type)} {short(_name(layer))!r}" for layer in layers]
    return f"the MACs of {listed(names)} cannot be counted"


def not_in_int8(layers: Sequence[Layer]) -> str:
    """The layers that multiply and were not executed in INT8, with their share and time; "" when there is none."""
    rest = sorted((x for x in layers if x.macs != 0 and x.precision != INT8), key=heaviness, reverse=True)
    counts = [layer.macs for layer in layers]
    whole = sum(count for count in counts if count is not None) if None not in counts else None
    told = [_told(layer, whole) for layer in rest[:NAMED]]
    more = f"; and {len(rest) - NAMED} more" if len(rest) > NAMED else ""
    return "; ".join(told) + more


def _told(layer: Layer, whole: int | None) -> str:
    share = f" ({percent(layer.macs / whole, 1)})" if layer.macs is not None and whole else ""
    time = "not timed" if layer.ms is None else ms(layer.ms)
    kind = f"{short(layer.type)}, {short(layer.precision)}"
    return f"{short(_name(layer))} ({kind}): {count_size(layer.macs)} MACs{share}, {time}"


def _name(layer: Layer) -> str:
    return layer.onnx_nodes[0] if layer.onnx_nodes else layer.name
