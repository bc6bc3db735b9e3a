"""Intervals, standard errors and tests: the one home of every estimator, with the source of its formula.

What has a trade of its own (the gate's sequential test, change points, which percentile so many samples support)
stands where it is used, and takes its quantiles and bounds from here. scipy is loaded by the first call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import exp, log, sqrt
from typing import Any, Literal

import numpy as np

CONFIDENCE = 0.95
"""Of every interval and bound that is not told otherwise."""

Values = np.ndarray[Any, Any]


@lru_cache(maxsize=256)
def normal_quantile(probability: float) -> float:
    """The standard normal deviate that is not exceeded with this probability: 1.96 of 0.975."""
    from scipy.special import ndtri

    return float(ndtri(probability))


@lru_cache(maxsize=256)
def student_quantile(probability: float, degrees: int) -> float:
    """Student's t with so many degrees of freedom that is not exceeded with this probability."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, probability))


# -- means


@dataclass(frozen=True)
class Mean:
    """The mean of a sample, and what Student's t (1908, Biometrika 6) says of the mean that it estimates.

    error: the standard error, s / sqrt(n) with n - 1 in the variance; NaN of one value, and 0 of equal values, which
    tell nothing of how others would scatter.
    """

    value: float
    error: float
    n: int

    def lower(self, confidence: float = CONFIDENCE) -> float:
        """The one-sided bound that the true mean lies above with this confidence."""
        return self.value - student_quantile(confidence, self.n - 1) * self.error

    def upper(self, confidence: float = CONFIDENCE) -> float:
        """The one-sided bound that the true mean lies below with this confidence."""
        return self.value + student_quantile(confidence, self.n - 1) * self.error

    @property
    def ci95(self) -> tuple[float, float]:
        """The two-sided 95 % interval (Casella and Berger, Statistical Inference, section 9.2.2)."""
        return self.lower((1 + CONFIDENCE) / 2), self.upper((1 + CONFIDENCE) / 2)

    def p_above(self, limit: float = 0.0) -> float:
        """The p-value of the one-sided t-test: a mean this far above `limit` by chance, where the true one is not."""
        from scipy.special import stdtr

        if self.error == 0:
            return 0.0 if self.value > limit else 1.0
        return float(stdtr(self.n - 1, -(self.value - limit) / self.error))


def mean_of(values: Sequence[float] | Values) -> Mean:
    """The mean of at least one value, with its standard error; of the differences of pairs it is the paired error."""
    found = np.asarray(values, dtype=np.float64)
    n = len(found)
    if n < 2:
        return Mean(float(found[0]), float("nan"), n)
    if found.min() == found.max():  # whose mean may be off by a rounding, and then their scatter is not 0
        return Mean(float(found[0]), 0.0, n)
    return Mean(float(found.mean()), float(found.std(ddof=1)) / sqrt(n), n)


def geometric_mean(values: Sequence[float]) -> tuple[float, tuple[float, float]]:
    """exp of the mean logarithm of positive values, and its 95 % interval: that of the logarithms, taken back.

    For times and ratios, whose errors are per cent (Bland and Altman 1996, BMJ 312, 1079; Fleming and Wallace 1986,
    Comm. ACM 29, on ratios). The interval of one value is NaN. ValueError for a value that is not above 0.
    """
    logarithms = mean_of([log(value) for value in values])
    low, high = logarithms.ci95
    return exp(logarithms.value), (exp(low), exp(high))


def deviation_bound(deviation: float, n: int) -> float:
    """The upper end of the 95 % interval of a standard deviation that n normal values show.

    s sqrt((n - 1) / chi2(0.025, n - 1)): Casella and Berger, Statistical Inference, section 9.2.2.
    """
    from scipy.stats import chi2

    return float(deviation * ((n - 1) / chi2.ppf((1 - CONFIDENCE) / 2, n - 1)) ** 0.5)


# -- shares


def share_interval(hits: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share (1927, JASA 22, 209-212; without continuity correction, as method 3 of
    Newcombe 1998, Stat. Med. 17, 857-872): it stays within 0 and 1, and has a width where all or none are hits.
    """
    share, z = hits / n, normal_quantile((1 + CONFIDENCE) / 2)
    whole = 2 * (n + z**2)
    centre = (2 * n * share + z**2) / whole
    half = z / whole * sqrt(4 * n * share * (1 - share) + z**2)
    return (max(0.0, centre - half) if hits else 0.0), (min(1.0, centre + half) if hits < n else 1.0)


def share_error(hits: int, n: int) -> float:
    """The standard error of a share: half of Wilson's interval over its normal quantile, never 0.

    sqrt(4 n p (1 - p) + z^2) / (2 (n + z^2)), for large n the familiar sqrt(p (1 - p) / n), which calls a share of 0 or
    1 certain (Newcombe 1998, Stat. Med. 17, methods 1 and 3).
    """
    share, z = hits / n, normal_quantile((1 + CONFIDENCE) / 2)
    return sqrt(4 * n * share * (1 - share) + z**2) / (2 * (n + z**2))


def paired_drop_bound(before: Values, after: Values) -> float:
    """What the share before minus the share after surely (95 %) does not exceed; 0 or 1 of the same samples, (n,).

    Wald's one-sided bound with half a sample added to each of the four cells, so that few samples never look certain
    (Agresti and Min 2005, Stat. Med. 24, 729-740).
    """
    n = len(before) + 2
    only_before = float((before > after).sum()) + 0.5
    only_after = float((after > before).sum()) + 0.5
    drop = (only_before - only_after) / n
    return drop + normal_quantile(CONFIDENCE) * sqrt(only_before + only_after - n * drop**2) / n


# -- tests


def mcnemar(
    a_scores: Values, b_scores: Values, alternative: Literal["two-sided", "greater"] = "two-sided"
) -> float:
    """Exact McNemar test: p-value that both err alike, or that a is not better.

    The binomial test on the discordant pairs (McNemar 1947, Psychometrika 12; Agresti, Categorical Data Analysis,
    section 10.1). a_scores, b_scores: 0 or 1 of the same samples in one order, shape (n,), else ValueError. p is 1 if
    none is discordant.
    """
    from scipy.stats import binomtest

    a, b = np.asarray(a_scores), np.asarray(b_scores)
    if a.shape != b.shape or not (np.isin(a, (0, 1)).all() and np.isin(b, (0, 1)).all()):
        raise ValueError("McNemar's test needs 0/1 scores of the same samples for both networks")
    only_a, only_b = int((a > b).sum()), int((b > a).sum())
    return (
        float(binomtest(only_a, only_a + only_b, alternative=alternative).pvalue) if only_a + only_b else 1.0
    )


def signed_ranks(differences: Values) -> float:
    """Wilcoxon's signed-rank test (1945, Biometrics Bulletin 1): p-value that differences (n,) are this far above 0 by
    chance; 1 where all are 0.
    """
    from scipy.stats import wilcoxon

    return float(wilcoxon(differences, alternative="greater").pvalue) if differences.any() else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted so that all together err as rarely as one of them would, in the order given.

    Holm 1979, Scandinavian Journal of Statistics 6, 65-70.
    """
    ordered = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(ordered):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted
