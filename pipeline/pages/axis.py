"""Axes of charts: where a value lies on one, and round values to write beside it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

LOG_FROM = 15  # times between the least and the largest value, from which an axis is logarithmic
PAD = 0.12  # of an axis left free at its ends


@dataclass(frozen=True)
class Axis:
    """A range of values on a line, linear or logarithmic."""

    low: float
    high: float
    logarithmic: bool = False

    def share(self, value: float) -> float:
        """Where a value lies: 0 at the low end, 1 at the high end; values beyond lie at the ends."""
        low, high, at = (self._scaled(v) for v in (self.low, self.high, value))
        return min(max((at - low) / (high - low), 0), 1)

    def ticks(self) -> list[float]:
        """Round values inside the range, about six of them."""
        if self.logarithmic:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)))
            found = [factor * 10.0**decade for decade in decades for factor in (1, 2, 5)]
        else:
            rough = (self.high - self.low) / 6
            base = 10.0 ** math.floor(math.log10(rough))
            step = next((f * base for f in (1, 2, 2.5, 5) if f * base >= rough), 10 * base)
            found = [
                round(i * step, 12) for i in range(math.ceil(self.low / step), 1 + int(self.high / step))
            ]
        return [tick for tick in found if self.low <= tick <= self.high]

    def _scaled(self, value: float) -> float:
        return math.log(max(value, self.low)) if self.logarithmic else value


def axis_over(values: Iterable[float], from_zero: bool) -> Axis:
    """An axis that holds every value that is finite, with room at its ends.

    from_zero: for amounts, which start at 0, or are drawn on a logarithmic axis where they differ much.
    """
    held = [v for v in values if math.isfinite(v)] or [0.0, 1.0]
    low, high = min(held), max(held)
    if from_zero and low > 0 and high / low > LOG_FROM:
        room = (high / low) ** PAD
        return Axis(low / room, high * room, logarithmic=True)
    if from_zero and low >= 0:
        return Axis(0.0, (1 + PAD) * high or 1.0)
    room = PAD * (high - low) or PAD * abs(high) or 1.0
    if low >= 0 and high <= 1:  # fractions stay fractions
        return Axis(max(low - room, 0.0), min(high + room, 1.0))
    return Axis(low - room, high + room)
