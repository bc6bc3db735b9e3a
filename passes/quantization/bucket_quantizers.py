"""Weights of 2 to 8 bits in a captured graph: equally spaced points, or points that learn."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .buckets import (
    Bucket,
    Levels,
    entropy_bits,
    nearest_levels,
    scaled,
    scaling,
    stored_bits,
    to_buckets,
    uniform_levels,
    uniform_points,
)


class UniformWeights(nn.Module):
    """Rounds a weight to 2^bits equally spaced points between the extremes of each bucket, as these are now.

    The gradient at the rounded weight is that of the weight (straight through). With a generator in `draws`,
    rounding is stochastic.
    """

    floor: Tensor

    def __init__(self, bits: int, axis: int, bucket: Bucket, floor: Tensor, limit: int = 127) -> None:
        super().__init__()
        self.bits, self.axis, self.bucket, self.limit = bits, axis, bucket, limit
        self.draws: torch.Generator | None = None
        self.enabled = True
        self.register_buffer("floor", floor.reshape(-1, 1))

    def forward(self, weight: Tensor) -> Tensor:
        """The rounded weight, same shape."""
        if not self.enabled:
            return weight
        rounded = self.levels(weight, self.draws).values()
        return rounded + (
            weight - weight.detach()
        )  # exactly the rounded weight, and the gradient of the other

    def levels(self, weight: Tensor, draws: torch.Generator | None = None) -> Levels:
        """The stored form of a weight."""
        weight = weight.detach()
        rows = to_buckets(weight, self.axis, self.bucket)
        alpha, beta = scaling(rows)
        found = uniform_levels(scaled(rows, alpha, beta), self.bits, draws)
        points = uniform_points(self.bits).to(weight.device)
        return Levels(
            found, points, alpha, beta, weight.shape, self.axis, self.bucket, self.floor, self.limit
        )

    def int8(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """`Levels.int8` of a weight."""
        return self.levels(weight).int8()


class LearnedWeights(nn.Module):
    """Each weight goes to the nearest of 2^bits points, which learn while the weights stay (section 3.2).

    Q(v) = α p + β, so the gradient of point j is the sum of α times the gradient over the weights that are at j.
    """

    floor: Tensor

    def __init__(self, points: Tensor, axis: int, bucket: Bucket, floor: Tensor, limit: int = 127) -> None:
        super().__init__()
        self.axis, self.bucket, self.limit = axis, bucket, limit
        self.bits = (len(points) - 1).bit_length()
        self.enabled = True
        self.points = nn.Parameter(points)
        self.register_buffer("floor", floor.reshape(-1, 1))

    def forward(self, weight: Tensor) -> Tensor:
        """The weight at its points, same shape."""
        return self.levels(weight).values() if self.enabled else weight

    def levels(self, weight: Tensor) -> Levels:
        """The stored form of a weight; its values pass gradients on to the points."""
        weight = weight.detach()
        rows = to_buckets(weight, self.axis, self.bucket)
        alpha, beta = scaling(rows)
        ascending = self.points.sort().values
        found = nearest_levels(scaled(rows, alpha, beta), ascending.detach())
        return Levels(
            found, ascending, alpha, beta, weight.shape, self.axis, self.bucket, self.floor, self.limit
        )

    def int8(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """`Levels.int8` of a weight."""
        return self.levels(weight).int8()


BucketQuantizer = UniformWeights | LearnedWeights


def weight_bytes(quantizer: BucketQuantizer, weight: Tensor) -> tuple[int, int]:
    """Bytes of a weight packed to its bits, scales and points included; and with its levels at their entropy."""
    stored = quantizer.levels(weight)
    buckets, learned = len(stored.alpha), isinstance(quantizer, LearnedWeights)
    packed = stored_bits(weight.numel(), quantizer.bits, buckets, learned)
    rest = packed - quantizer.bits * weight.numel()
    rows = stored.levels.reshape(-1)[: weight.numel()]  # without what fills up a short last bucket
    return -(-packed // 8), -(-int(rest + entropy_bits(rows, quantizer.bits)) // 8)
