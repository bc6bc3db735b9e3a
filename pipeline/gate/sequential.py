"""The sequential test of two latencies: a verdict as soon as the pairs support one, and no sooner.

Pairs of launches, baseline and candidate, give d = log(candidate / baseline) of their times. At each look Student's t
on the pairs bounds the mean of d; the errors are split evenly over the looks (Bonferroni), so that looking often costs
nothing in false alarms. Wilcoxon's signed ranks must say the same: t trusts means, which one bad pair can move.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import exp, log, sqrt
from typing import Literal

import numpy as np

Decision = Literal["FAIL", "PASS", "MORE"]


@dataclass(frozen=True)
class Limits:
    """What counts as slower, and how sure to be.

    tolerance: a slowdown that nobody minds, as a fraction; FAIL needs more than it. budget: the slowdown that must not
    pass. floor_ms: a difference that nobody notices, whatever its ratio. looks: pairs after which to look.
    false_fail, false_pass: the largest chances of a FAIL within the tolerance, of a PASS at the budget.
    """

    tolerance: float = 0.01
    budget: float = 0.05
    floor_ms: float = 0.02
    looks: tuple[int, ...] = (6, 12, 20, 30)
    false_fail: float = 0.01
    false_pass: float = 0.05


@dataclass(frozen=True)
class Look:
    """What the pairs say at one look.

    ratio: candidate time over baseline time; lower, upper: one-sided bounds of it at the shares of the two errors.
    p: of no more than the tolerance, times the looks. ranks_fail, ranks_pass: whether the signed ranks agree with t,
    where it decides.
    """

    pairs: int
    decision: Decision
    ratio: float
    lower: float
    upper: float
    difference_ms: float
    p: float
    ranks_fail: bool
    ranks_pass: bool


def look(log_ratios: Sequence[float], typical_ms: float, limits: Limits, share: float = 1.0) -> Look:
    """The test on pairs so far. log_ratios: of candidate over baseline, shape (pairs,), at least two.

    typical_ms: of the baseline, for the floor. share: of `false_fail`, where several measures share it (Holm's first
    step).
    """
    d = np.asarray(log_ratios, dtype=float)
    n, mean = len(d), float(d.mean())
    error = float(d.std(ddof=1)) / sqrt(n)
    alpha = limits.false_fail * share / len(limits.looks)
    beta = limits.false_pass / len(limits.looks)
    lower, upper = mean - _t(1 - alpha, n - 1) * error, mean + _t(1 - beta, n - 1) * error
    slower, within = log(1 + limits.tolerance), log(1 + limits.budget)
    difference = typical_ms * (exp(mean) - 1)
    fails = lower > slower and difference > limits.floor_ms
    passes = upper < within or typical_ms * (exp(upper) - 1) < limits.floor_ms
    p = min(1.0, len(limits.looks) * _p_slower(mean - slower, error, n))
    ranks_fail = p <= limits.false_fail and _ranks(d - slower, alpha)
    ranks_pass = passes and (upper >= within or _ranks(within - d, beta))
    return Look(
        pairs=n,
        decision="FAIL"
        if fails and ranks_fail
        else "PASS"
        if passes and ranks_pass and not fails
        else "MORE",
        ratio=exp(mean),
        lower=exp(lower),
        upper=exp(upper),
        difference_ms=difference,
        p=p,
        ranks_fail=ranks_fail,
        ranks_pass=ranks_pass,
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted so that all together err as rarely as one of them would (Holm 1979), in the order given."""
    ordered = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(ordered):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def smallest_slowdown(sd: float, limits: Limits, power: float = 0.95) -> float:
    """The smallest slowdown (a fraction) that the last look calls FAIL with probability `power`.

    sd: of a pair's log-ratio, as pairs of one engine with itself show it.
    """
    pairs = limits.looks[-1]
    alpha = limits.false_fail / len(limits.looks)
    needed = (_t(1 - alpha, pairs - 1) + _t(power, pairs - 1)) * sd / sqrt(pairs)
    return (1 + limits.tolerance) * exp(needed) - 1


def _p_slower(excess: float, error: float, n: int) -> float:
    """One-sided p-value of t: that the mean is above the tolerance by chance."""
    from scipy.special import stdtr

    if error == 0:
        return 0.0 if excess > 0 else 1.0
    return float(stdtr(n - 1, -excess / error))


def _ranks(d: np.ndarray[tuple[int], np.dtype[np.float64]], level: float) -> bool:
    """Whether the signed ranks call `d` positive at `level`, or as surely as so few pairs ever can (2^-n)."""
    from scipy.stats import wilcoxon

    if not d.any():
        return False
    return bool(wilcoxon(d, alternative="greater").pvalue <= max(level, 0.5 ** len(d)))


@lru_cache(maxsize=256)
def _t(probability: float, degrees: int) -> float:
    from scipy.stats import t

    return float(t.ppf(probability, degrees))
