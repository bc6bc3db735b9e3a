"""The sequential test of two latencies: a verdict as soon as the pairs support one, and no sooner.

Pairs of launches, baseline and candidate, give d = log(candidate / baseline) of their times. At each look Student's t
on the pairs bounds the mean of d; the errors are split evenly over the looks (Bonferroni), so that looking often costs
nothing in false alarms. Wilcoxon's signed ranks must say the same: t trusts means, which one bad pair can move.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, log1p
from typing import Literal

import numpy as np

from ...calibration.statistics import mean_of, signed_ranks
from ...record import Count, Record

Decision = Literal["FAIL", "PASS", "MORE"]


@dataclass(frozen=True)
class Limits:
    """What counts as slower, and how sure to be.

    tolerance: a slowdown that nobody minds, as a fraction; floor_ms: a difference that nobody notices, whatever its
    ratio: FAIL must be surely beyond both. budget: the slowdown that must not pass. looks: pairs after which to look.
    false_fail, false_pass: the largest chances of a FAIL within tolerance or floor, of a PASS at the budget.
    """

    tolerance: float = 0.01
    budget: float = 0.05
    floor_ms: float = 0.02
    looks: tuple[int, ...] = (6, 12, 20, 30)
    false_fail: float = 0.01
    false_pass: float = 0.05

    def minded(self, typical_ms: float) -> float:
        """The log-ratio from which on a slowdown of a baseline of `typical_ms` is minded: tolerance or floor."""
        return max(log1p(self.tolerance), log1p(self.floor_ms / typical_ms))

    def barred(self, typical_ms: float) -> float:
        """The log-ratio that must not pass: the budget, or the floor where that is more."""
        return max(log1p(self.budget), log1p(self.floor_ms / typical_ms))


class Look(Record, frozen=True):
    """What the pairs say at one look.

    ratio: candidate time over baseline time; lower, upper: one-sided bounds of it at the shares of the two errors.
    p: of a ratio that nobody minds, times the looks. ranks_fail, ranks_pass: whether the signed ranks agree with t,
    where it decides.
    """

    pairs: Count
    decision: Decision
    ratio: float
    lower: float
    upper: float
    p: float
    ranks_fail: bool
    ranks_pass: bool


def look(log_ratios: Sequence[float], typical_ms: float, limits: Limits, share: float = 1.0) -> Look:
    """The test on pairs so far. log_ratios: of candidate over baseline, shape (pairs,), at least two.

    typical_ms: of the baseline, for the floor. share: of `false_fail`, where several measures share it (Holm's first
    step).
    """
    d = np.asarray(log_ratios, dtype=float)
    mean = mean_of(d)
    alpha = limits.false_fail * share / len(limits.looks)
    beta = limits.false_pass / len(limits.looks)
    lower, upper = mean.lower(1 - alpha), mean.upper(1 - beta)
    minded, barred = limits.minded(typical_ms), limits.barred(typical_ms)
    p = min(1.0, len(limits.looks) * mean.p_above(minded))
    ranks_fail = p <= limits.false_fail and _ranks(d - minded, alpha)
    ranks_pass = upper < barred and _ranks(barred - d, beta)
    fails = lower > minded and ranks_fail
    return Look(
        pairs=mean.n,
        decision="FAIL" if fails else "PASS" if ranks_pass and lower <= minded else "MORE",
        ratio=exp(mean.value),
        lower=exp(lower),
        upper=exp(upper),
        p=p,
        ranks_fail=ranks_fail,
        ranks_pass=ranks_pass,
    )


def smallest_slowdown(sd: float, typical_ms: float, limits: Limits, power: float = 0.95) -> float:
    """The smallest slowdown (a fraction) that a gate, looks, early PASS, floor and all, calls FAIL with this power.

    Found by simulation. sd: of a pair's log-ratio, as pairs of one engine with itself show it.
    """
    low, high = limits.minded(typical_ms), limits.minded(typical_ms) + 0.01
    while _power(high, sd, typical_ms, limits) < power:
        low, high = high, 2 * high
    while high - low > 0.0005:
        middle = (low + high) / 2
        low, high = (low, middle) if _power(middle, sd, typical_ms, limits) >= power else (middle, high)
    return exp(high) - 1


def _power(change: float, sd: float, typical_ms: float, limits: Limits, gates: int = 200) -> float:
    """The share of simulated gates that end with FAIL when the log-ratio is `change`."""
    draw = np.random.default_rng(0)
    failed = 0
    for _ in range(gates):
        d = change + sd * draw.standard_normal(limits.looks[-1])
        decisions = (look(d[:n].tolist(), typical_ms, limits).decision for n in limits.looks)
        failed += next((decision for decision in decisions if decision != "MORE"), "MORE") == "FAIL"
    return failed / gates


def _ranks(d: np.ndarray[tuple[int], np.dtype[np.float64]], level: float) -> bool:
    """Whether the signed ranks call `d` positive at `level`, or as surely as so few pairs ever can (2^-n)."""
    return signed_ranks(d) <= max(level, 0.5 ** len(d))
