"""Speed-up: how much faster the compressed engine is than the float ones, surely."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from ..pages.words import TIMES, between, known, ratio
from .budget import Budget, Evidence, Finding, NotMeasuredError, told_apart


class SpeedupBudget(Budget[float]):
    """Least ratio of the faster float engine's time to the compressed one's: the lower end of its interval."""

    subject = "device"

    def name(self, found: Evidence) -> str:
        return f"speed-up on {self.device}"

    @property
    def limit_text(self) -> str:
        return f"at least {self.limit:g}{TIMES}"

    def judged(self, found: Evidence) -> Finding:
        target, _ = found.on(self.device)
        if broken := target.broken_baselines:
            raise NotMeasuredError(
                f"the proof {broken[0].edge} is broken, so that there is no baseline to be faster than."
            )
        timed = [s for s in target.speedup if known(s.ci95[0]) and known(s.ratio)]
        if not timed or target.speedup_over_f32 is None:
            raise NotMeasuredError("the compressed engine was not timed against the f32 engine.")
        # A float network runs in the runtime's own default where nobody asks: the faster baseline is the honest one.
        speedup = min(timed, key=lambda s: s.ci95[0])
        low, high = speedup.ci95
        interval = between(told_apart(self.limit, low, lambda v: f"{v:.2f}", "{:.6f}"), ratio(high))
        measured = f"{ratio(speedup.ratio)} (95 % interval {interval}, {speedup.pairs} pairs)"
        kept = low >= self.limit
        side = "at or above" if kept else "below"
        return Finding(
            measured, kept, f"against {speedup.baseline}, the lower end of the interval is {side} the limit."
        )


SpeedupLimits = Annotated[
    dict[str, Annotated[float, Field(gt=0)]],
    SpeedupBudget,
    Field(
        description="Least speed-up per device over each float engine, f32 and the runtime's own default; the lower "
        "end of its 95 % interval must reach it.",
        examples=[{"openvino:CPU": 1.2}],
    ),
]
