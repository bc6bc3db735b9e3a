"""Signal to quantization noise ratio: how far rounding moves something, in decibels."""

from __future__ import annotations

import math
from collections.abc import Iterable

from torch import Tensor

UNMOVED_DB = 200.0


def decibels(signal: float, noise: float) -> float:
    """10 log10(signal / noise) of two sums of squares; 200 when there is no noise."""
    return UNMOVED_DB if noise == 0.0 else 10 * math.log10(max(signal, 1e-300) / noise)


def sqnr_db(reference: Tensor, actual: Tensor) -> float:
    """10 log10(sum reference^2 / sum (reference - actual)^2) over all elements; 200 when they are equal."""
    noise = float((reference.detach().double() - actual.detach().double()).pow(2).sum())
    return decibels(float(reference.detach().double().pow(2).sum()), noise)


def worst_sqnr_db(reference: Iterable[Tensor], actual: Iterable[Tensor]) -> float:
    """The SQNR in dB of the worst of several tensors."""
    return min(sqnr_db(one, other) for one, other in zip(reference, actual, strict=True))
