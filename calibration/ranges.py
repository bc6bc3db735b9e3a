"""Activation ranges: a streaming histogram per tensor, and four ways to choose a range from it.

Memory is bounded: 2,048 counts a tensor, whatever the number of samples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .scheme import RangeMethod

Floats = np.ndarray[Any, np.dtype[np.float64]]
BINS = 2048
PERCENTILE = 99.99
FRACTIONS = 80  # how many clipping fractions between 0.2 and 1 are tried
KEPT = 1e-12  # smallest half-width of a range: an all-zero tensor still needs a grid


@dataclass
class Observer:
    """What one tensor (or a group that shares a grid) looked like: extremes first, then a histogram."""

    low: float = float("inf")
    high: float = float("-inf")
    counts: Tensor = field(default_factory=lambda: torch.zeros(BINS, dtype=torch.float64))

    def see_extremes(self, x: Tensor) -> None:
        """First pass over the data. Raises ValueError when `x` holds NaN or infinity, as no grid can."""
        low, high = (float(end) for end in torch.aminmax(x.detach()))
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError("holds NaN or infinite values")
        self.low, self.high = min(self.low, low), max(self.high, high)

    def see_values(self, x: Tensor) -> None:
        """Second pass, once the extremes are final."""
        low, high = self.bounds
        self.counts += torch.histc(x.detach().float(), BINS, low, high).double()

    @property
    def bounds(self) -> tuple[float, float]:
        """The range of the histogram: always holds 0, never empty."""
        return min(self.low, -KEPT), max(self.high, KEPT)

    @property
    def centers(self) -> Tensor:
        """The middle of each bin, shape (BINS,)."""
        low, high = self.bounds
        edges = torch.linspace(low, high, BINS + 1, dtype=torch.float64)
        return (edges[:-1] + edges[1:]) / 2


@dataclass(frozen=True)
class Range:
    """The real values that the ends of the grid stand for; holds 0."""

    low: float
    high: float


def choose_range(observer: Observer, method: RangeMethod, symmetric: bool) -> Range:
    """The clipping range for an 8-bit grid.

    minmax: all that was seen. percentile: the middle 99.99 %. mse: least mean squared error of rounding and
    clipping, over ranges shrunk by a common factor. entropy: least KL divergence of the rounded from the
    original distribution over the same ranges (TensorRT's calibration, S. Migacz, GTC 2017).
    symmetric: the range will be widened to [-m, m], so both ends count by the larger.
    """
    low, high = observer.bounds
    if method == "minmax" or float(observer.counts.sum()) == 0.0:
        return Range(low, high)
    if method == "percentile":
        return _percentile(observer, symmetric)
    if symmetric:
        largest = max(-low, high)
        low, high = -largest, largest
    score = _squared_error if method == "mse" else _divergence
    seen = observer.counts > 0
    data = _Histogram(observer.centers[seen].numpy(), observer.counts[seen].numpy(), symmetric)
    # Widest first: of equally good ranges the one that clips least wins.
    fractions = np.linspace(1.0, 0.2, FRACTIONS).tolist()
    best = min((Range(low * f, high * f) for f in fractions), key=lambda r: score(data, r))
    if symmetric:
        return best
    ends = [
        (1.0, 1.0),
        *((f, 1.0) for f in fractions),
        *((1.0, f) for f in fractions),
    ]  # tails need not be alike
    return min((Range(best.low * f, best.high * g) for f, g in ends), key=lambda r: score(data, r))


def _percentile(observer: Observer, symmetric: bool) -> Range:
    tail = (100 - PERCENTILE) / 100
    if symmetric:
        magnitudes, order = observer.centers.abs().sort()
        cumulative = observer.counts[order].cumsum(0) / observer.counts.sum()
        limit = float(magnitudes[int((cumulative >= 1 - tail).nonzero()[0])])
        return Range(-limit, limit)
    cumulative = observer.counts.cumsum(0) / observer.counts.sum()
    low = observer.centers[int((cumulative >= tail / 2).nonzero()[0])]
    high = observer.centers[int((cumulative >= 1 - tail / 2).nonzero()[0])]
    return Range(min(float(low), -KEPT), max(float(high), KEPT))


@dataclass(frozen=True)
class _Histogram:
    """The bins that hold something, as numpy: on 2,048 numbers torch's cost of a call is most of the time."""

    centers: Floats
    counts: Floats
    symmetric: bool

    def rounded(self, candidate: Range) -> tuple[Floats, float]:
        """The integers (counted from real 0) that the candidate's grid puts the bins on, and its step."""
        if self.symmetric:
            step = max(-candidate.low, candidate.high) / 127
            first, last = -128, 127
        else:
            step = (candidate.high - candidate.low) / 255
            first = max(-255, min(0, round(candidate.low / step)))
            last = first + 255
        return np.clip(np.rint(self.centers / step), first, last), step


def _squared_error(data: _Histogram, candidate: Range) -> float:
    integers, step = data.rounded(candidate)
    errors = integers * step - data.centers
    return float(data.counts @ (errors * errors))


def _divergence(data: _Histogram, candidate: Range) -> float:
    integers, _ = data.rounded(candidate)
    levels = (integers - integers[0]).astype(np.int64)  # the centers ascend: the first is the least
    inside = (data.centers >= candidate.low) & (data.centers <= candidate.high)
    # The rounded distribution shares each level's mass, less the clipped tails, among its bins ...
    model = (np.bincount(levels, data.counts * inside) / np.maximum(np.bincount(levels), 1))[levels]
    p, q = data.counts / data.counts.sum(), model / max(float(model.sum()), KEPT)
    # ... and is compared with the original, so that clipped mass costs; 1e-10 stands in for an empty level.
    return float(p @ (np.log(p) - np.log(np.maximum(q, 1e-10))))
