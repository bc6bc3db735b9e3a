"""Latency: the median time of one inference."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from ..pages.words import known, ms
from ..recipe.values import Milliseconds
from .budget import Budget, Evidence, Finding, NotMeasuredError, told_apart


class LatencyBudget(Budget[float]):
    """Most milliseconds of the compressed engine's median inference."""

    subject = "device"

    def name(self, found: Evidence) -> str:
        return f"latency p50 on {self.device}"

    @property
    def limit_text(self) -> str:
        return f"{self.limit:g} ms"

    def judged(self, found: Evidence) -> Finding:
        latency = found.on(self.device)[1].latency_ms
        if latency is None or not known(latency.p50):
            raise NotMeasuredError("the compressed engine was not timed.")
        kept = latency.p50 <= self.limit
        reason = f"the median of {latency.n:,} inferences in {latency.launches} launches is "
        reason += f"{'within' if kept else 'over'} the limit"
        if latency.cached:
            reason += f"; a cached measurement of {latency.measured_at}"
        return Finding(told_apart(self.limit, latency.p50, ms, "{:.6f} ms"), kept, reason + ".")


LatencyLimits = Annotated[
    dict[str, Milliseconds],
    LatencyBudget,
    Field(
        description="Median latency per device, as `openvino:CPU: 5 ms`.",
        examples=[{"openvino:CPU": "5 ms"}],
    ),
]
