"""INT8 share: how much of the network a device computes in INT8, by its runtime's own word."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from ..pages.words import known, percent
from .budget import Budget, Evidence, Finding, NotMeasuredError, told_apart


class Int8ShareBudget(Budget[float]):
    """Least share of the compressed engine's multiply-accumulates, whatever is unknown of it."""

    subject = "device"

    def name(self, found: Evidence) -> str:
        return f"INT8 share of MACs on {self.device}"

    @property
    def limit_text(self) -> str:
        return f"at least {100 * self.limit:g} %"

    def judged(self, found: Evidence) -> Finding:
        from ...calibration.metric import ROUNDING
        from ..int8_share import int8_share, not_in_int8, uncounted_text

        _, compressed = found.on(self.device)
        share = int8_share(compressed)
        if share is None or not known(share.low):
            raise NotMeasuredError("the runtime does not tell what its layers execute in.")
        if share.low == share.high:
            measured = told_apart(self.limit, share.low, percent, "{:.6%}")
            measured = measured.replace("%", " %").replace("  ", " ")
        else:
            measured = share.text(2)
        kept = share.low >= self.limit - ROUNDING
        if kept:
            reason = "by the runtime's own word, enough MACs are executed in INT8"
        elif share.high >= self.limit - ROUNDING:
            reason = f"it depends on what is unknown: {uncounted_text(share.uncounted)}"
        else:
            reason = "by the runtime's own word, too few MACs are executed in INT8"
        rest = not_in_int8(compressed.layers)
        if not kept and rest:
            reason += f"; not in INT8: {rest}"
        return Finding(measured, kept, reason + ".")


Int8ShareLimits = Annotated[
    dict[str, Annotated[float, Field(ge=0, le=1)]],
    Int8ShareBudget,
    Field(
        description="Least share of the MACs that each device must execute in INT8.",
        examples=[{"openvino:CPU": 0.9}],
    ),
]
