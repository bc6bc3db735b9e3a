"""Buckets of weights, and the few points that stand for them (Polino et al. 2018, arXiv 1802.05668, section 2).

A bucket is one output channel, or k consecutive weights. It is scaled to [0, 1] by its own extremes,
v̂ = (v - β) / α with α = max - min and β = min, and each v̂ goes to one of 2^b points: equally spaced ones
j / (2^b - 1), or learned ones. A level is the index of a point.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ..graph.operators import channels_first

Bucket = Literal["channel"] | int
"""What shares one α and β: an output channel, or so many consecutive weights."""
FLOAT_BITS = 32
LLOYD_ROUNDS = 20


def to_buckets(weight: Tensor, axis: int, bucket: Bucket) -> Tensor:
    """The weight as a matrix (buckets, weights of one); a short last bucket is filled up with its last weight."""
    if bucket == "channel":
        return channels_first(weight, axis)
    flat = weight.reshape(-1)
    missing = -len(flat) % bucket
    return torch.cat([flat, flat[-1:].expand(missing)]).reshape(-1, bucket)


def from_buckets(rows: Tensor, shape: torch.Size, axis: int, bucket: Bucket) -> Tensor:
    """The inverse of `to_buckets`: a tensor of `shape`."""
    if bucket == "channel":
        moved = [shape[axis], *(size for d, size in enumerate(shape) if d != axis)]
        return rows.reshape(moved).movedim(0, axis)
    return rows.reshape(-1)[: math.prod(shape)].reshape(shape)


def scaling(rows: Tensor) -> tuple[Tensor, Tensor]:
    """α = max - min and β = min of each bucket, both (buckets, 1)."""
    low, high = rows.amin(1, keepdim=True), rows.amax(1, keepdim=True)
    return high - low, low


def scaled(rows: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """v̂ in [0, 1]; 0 in a bucket whose weights are all equal."""
    divided = (rows - beta) / alpha.clamp(min=torch.finfo(rows.dtype).tiny)
    return torch.where(alpha > 0, divided, torch.zeros_like(divided))


def uniform_levels(v: Tensor, bits: int, generator: torch.Generator | None = None) -> Tensor:
    """Levels of the uniform quantizer with s = 2^bits - 1 steps: ⌊s v̂⌋ + ξ (section 2.1).

    Deterministic without a generator: ξ = 1 where the fraction is above ½. With one, stochastic: ξ is 1 with the
    fraction as its probability, so that the level is s v̂ in the mean.
    """
    steps = v * (2**bits - 1)
    fraction = steps - steps.floor()
    if generator is None:
        up = fraction > 0.5
    else:
        drawn = torch.rand(v.shape, generator=generator, dtype=v.dtype).to(v.device)
        up = drawn < fraction
    levels: Tensor = steps.floor() + up
    return levels.long()


def uniform_points(bits: int) -> Tensor:
    """The 2^bits equally spaced points from 0 to 1."""
    return torch.linspace(0, 1, 2**bits)


def quantile_points(v: Tensor, bits: int) -> Tensor:
    """2^bits points at the middles of equally filled parts of v̂: where differentiable quantization starts (3.2)."""
    count = 2**bits
    middles = (np.arange(count) + 0.5) / count
    return torch.from_numpy(np.quantile(v.detach().cpu().double().numpy(), middles)).float()


def centred_points(v: Tensor, points: Tensor, rounds: int = LLOYD_ROUNDS) -> Tensor:
    """The points, each moved to the mean of the v̂ nearest to it, several times (Lloyd 1982).

    Quantiles crowd where weights are many and leave the few large ones far off; a point to which no v̂ is nearest
    stays where it is.
    """
    flat = v.detach().reshape(-1).double()
    moved = points.double()
    for _ in range(rounds):
        levels = nearest_levels(flat, moved)
        sums = torch.zeros_like(moved).index_add_(0, levels, flat)
        counts = torch.bincount(levels, minlength=len(moved))
        moved = torch.where(counts > 0, sums / counts.clamp(min=1), moved)
    return moved.to(points.dtype)


def nearest_levels(v: Tensor, points: Tensor) -> Tensor:
    """The index of the point that is nearest to each v̂, the lower of two; points ascending, shape (points,)."""
    return torch.bucketize(v, (points[1:] + points[:-1]) / 2)


@dataclass(frozen=True)
class Levels:
    """A quantized weight as it is stored.

    levels: (buckets, weights of one), integers; points: (2^bits,) in scaled units; alpha, beta: (buckets, 1).
    floor: the least step of the INT8 grid of each channel, (channels, 1), and limit its largest integer; only for
    buckets that are channels.
    """

    levels: Tensor
    points: Tensor
    alpha: Tensor
    beta: Tensor
    shape: torch.Size
    axis: int
    bucket: Bucket
    floor: Tensor
    limit: int

    def values(self) -> Tensor:
        """The weight that runs, of `shape`: α p + β, on the INT8 grid where runtimes compute with it."""
        table = self.alpha * self.points + self.beta
        if self.bucket == "channel":
            step = self._int8_step(table)
            table = (
                table + (self._integers(table, step) * step - table).detach()
            )  # straight through the rounding
        rows = torch.gather(table, 1, self.levels)
        return from_buckets(rows, self.shape, self.axis, self.bucket)

    def int8(self) -> tuple[Tensor, Tensor]:
        """The same weight as int8 integers of `shape` and a scale for each channel, (channels,).

        2^bits points of a channel lie on the integers that every runtime multiplies with, so that a network
        of 2-bit weights runs on INT8 kernels.
        """
        table = (self.alpha * self.points + self.beta).detach()
        step = self._int8_step(table)
        rows = torch.gather(self._integers(table, step), 1, self.levels)
        integers = from_buckets(rows, self.shape, self.axis, self.bucket).to(torch.int8)
        return integers.contiguous(), step.reshape(-1)

    def _int8_step(self, table: Tensor) -> Tensor:
        largest = table.detach().abs().amax(1, keepdim=True) / self.limit
        widest = largest.max() if bool(largest.any()) else torch.ones_like(largest[:1, :1])
        return torch.maximum(torch.where(largest > 0, largest, widest), self.floor)

    def _integers(self, table: Tensor, step: Tensor) -> Tensor:
        return (table / step).round().clamp(-self.limit, self.limit)


def stored_bits(count: int, bits: int, buckets: int, learned: bool) -> int:
    """b·N + 2·32 bits a bucket (section 2.2), and 32 bits for each learned point."""
    return bits * count + 2 * FLOAT_BITS * buckets + (FLOAT_BITS * 2**bits if learned else 0)


def entropy_bits(levels: Tensor, bits: int) -> float:
    """N times the order-0 entropy of the levels: what an ideal entropy coder without context needs for them."""
    counts = torch.bincount(levels.reshape(-1), minlength=2**bits).double()
    share = counts[counts > 0] / counts.sum()
    return float(-(share * share.log2()).sum() * levels.numel())


def redistribute(
    sites: dict[str, tuple[int, float]], mean_bits: float, least: int = 2, most: int = 8
) -> dict[str, int]:
    """Bits for each tensor by the norm of its gradient, the mean over all weights held (section 3.2).

    sites: number of weights N and sensitivity s of each tensor: the mean squared gradient times the mean α².
    To first order rounding with b bits costs the loss N s / 4^b, so bits go, one a tensor at a time, where a bit
    per weight takes most away, until Σ b N would pass mean_bits · Σ N.
    """
    bits = dict.fromkeys(sites, least)
    left = (mean_bits - least) * sum(count for count, _ in sites.values())
    while True:
        fitting = [name for name in sites if bits[name] < most and sites[name][0] <= left + 1e-9]
        if not fitting:
            return bits
        best = max(fitting, key=lambda name: sites[name][1] / 4 ** bits[name])
        bits[best] += 1
        left -= sites[best][0]
