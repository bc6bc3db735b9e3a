"""Activation ranges: a streaming histogram per tensor, and four ways to choose a range from it.

Memory is bounded: 2,048 counts a tensor, whatever the number of samples.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

RangeMethod = Literal["minmax", "percentile", "mse", "entropy"]
BINS = 2048
PERCENTILE = 99.99
FRACTIONS = 80  # how many clipping fractions between 0.2 and 1 are tried
KEPT = 1e-12  # smallest half-width of a range: an all-zero tensor still needs a grid


@dataclass
class Observer:
    """What one tensor (or one group of tensors that share a grid) looked like: extremes first, then a histogram."""

    low: float = float("inf")
    high: float = float("-inf")
    counts: Tensor = field(default_factory=lambda: torch.zeros(BINS, dtype=torch.float64))

    def see_extremes(self, x: Tensor) -> None:
        """First pass over the data."""
        low, high = torch.aminmax(x.detach())
        self.low, self.high = min(self.low, float(low)), max(self.high, float(high))

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
    clipping, over ranges shrunk by a common factor. entropy: least KL divergence of the rounded from the original
    distribution over the same ranges (TensorRT's calibration, S. Migacz, GTC 2017). symmetric: the range will be
    widened to [-m, m], so both ends count by the larger.
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
    fractions = torch.linspace(0.2, 1.0, FRACTIONS, dtype=torch.float64).tolist()
    best = min(fractions, key=lambda f: (score(observer, low * f, high * f), -f))
    clipped = Range(low * best, high * best)
    if not symmetric:  # then each end alone, as the tails need not be alike
        clipped = min(
            (
                Range(clipped.low * f, clipped.high * g)
                for f, g in ((1, 1), *((f, 1) for f in fractions), *((1, f) for f in fractions))
            ),
            key=lambda r: score(observer, r.low, r.high),
        )
    return clipped


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


def _rounded(observer: Observer, low: float, high: float) -> tuple[Tensor, Tensor, float]:
    """Bin centers, where an 8-bit grid over [low, high] puts them, and its step."""
    step = (high - low) / 255
    centers = observer.centers
    integers = torch.clamp(torch.round(centers / step), round(low / step), round(high / step))
    return centers, integers, step


def _squared_error(observer: Observer, low: float, high: float) -> float:
    centers, integers, step = _rounded(observer, low, high)
    # Values are spread over their bin: the part of the rounding error that the centers do not show.
    return float((observer.counts * (centers - integers * step) ** 2).sum())


def _divergence(observer: Observer, low: float, high: float) -> float:
    _, integers, _ = _rounded(observer, low, high)
    levels = (integers - integers.min()).long()
    size = int(levels.max()) + 1
    occupied = (observer.counts > 0).double()
    spread = torch.zeros(size, dtype=torch.float64).index_add_(0, levels, occupied)
    inside = (observer.centers >= low) & (observer.centers <= high)
    # The rounded distribution shares each level's mass, without the clipped tails, among its occupied bins ...
    inner = torch.zeros(size, dtype=torch.float64).index_add_(0, levels, observer.counts * inside)
    model = torch.where(
        occupied > 0, inner[levels] / spread[levels].clamp(min=1), torch.zeros_like(observer.counts)
    )
    total = float(observer.counts.sum())
    p, q = observer.counts / total, model / max(float(model.sum()), KEPT)
    # ... and is compared with the original, so that clipped mass costs; 1e-10 stands in for an empty level.
    seen = p > 0
    return float((p[seen] * (p[seen].log() - q[seen].clamp(min=1e-10).log())).sum())
