"""Weights to few values at a stated squared error of each tensor by itself: no data, no training."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...model import CodedTensor
from .coded import about_zero, evenly
from .dependent import LARGEST, kind_for, walked

Matrix = NDArray[np.float64]

LEAST_WEIGHTS = 1024
"""Smaller tensors stay as they are: biases and scales, which take no room and are worth every bit."""
SAMPLE = 1 << 15
"""Weights on which the step is found; the whole tensor is rounded once or twice then."""
SEARCHES, CORRECTIONS = 12, 3
MOST_CHANGE = 8.0
"""Most that a search changes a step by at once."""
WALKED = 0.25
"""The mean squared error of a walk through wide weights, in squared steps, about."""
NEARLY, AIM = 0.97, 0.985
"""Shares of the error asked for: where the search ends, and what it aims at."""


def rounded(weight: Tensor, error: float) -> CodedTensor | None:
    """A float tensor along the trellis of dependent quantization, Σ (w - ŵ)² at most `error` · Σ w².

    None where it stays as it is: too small, not of floats, all zero, not finite, or one byte a code cannot be so near.
    """
    if weight.dtype != torch.float32 or weight.dim() < 2 or weight.numel() < LEAST_WEIGHTS:
        return None
    matrix = weight.detach().reshape(len(weight), -1).numpy().astype(np.float64)
    energy = float(np.square(matrix).sum())
    if not np.isfinite(energy) or energy == 0:
        return None
    step, kind = _step_and_kind(*_sample(matrix), error)
    for _ in range(CORRECTIONS):
        found = _coded(matrix, step, kind, weight.shape)
        if found is None:
            return None
        missed = (
            float(np.square(found.tensor().reshape(matrix.shape).numpy() - matrix).sum()) / energy / error
        )
        if missed <= 1:
            return found
        step *= (AIM / missed) ** 0.5
    return None


def coarser(integers: Tensor, error: float) -> tuple[Tensor, int]:
    """INT8 weights on every k-th integer, the largest k with Σ (q - q̂)² at most `error` · Σ q²; and k."""
    if integers.dtype != torch.int8 or integers.numel() < LEAST_WEIGHTS:
        return integers, 1
    values = integers.to(torch.float64)
    energy = float(values.square().sum())
    best, chosen = integers, 1
    for k in range(2, 65):
        near = (torch.round(values / k).clamp(-(127 // k), 127 // k) * k).to(torch.int8)
        if float((values - near.to(torch.float64)).square().sum()) > error * energy:
            break
        best, chosen = near, k
    return best, chosen


def _sample(matrix: Matrix) -> tuple[Matrix, Matrix]:
    """Some weights, (n,), from all over the matrix, and the least step of each; all of them where those are all 0."""
    least = np.broadcast_to(_least_steps(matrix), matrix.shape).reshape(-1)
    flat = matrix.reshape(-1)
    if len(flat) > SAMPLE:
        places = np.sort(np.random.default_rng(0).choice(len(flat), SAMPLE, replace=False))
        if flat[places].any():
            return flat[places], least[places]
    return flat, least


def _step_and_kind(weights: Matrix, least: Matrix, error: float) -> tuple[float, int]:
    """The largest step that was found at which the error is nearly the one asked for and not more, and the kind of
    trellis that is better about there."""
    energy = float(np.square(weights).mean())
    step = (error * energy / WALKED) ** 0.5
    kind = kind_for(weights / np.maximum(step, least))
    fits, fails = 0.0, np.inf
    for _ in range(SEARCHES):
        steps = np.maximum(step, least)
        share = float(np.square(walked(weights / steps, kind) * steps - weights).mean()) / energy / error
        fits, fails = (step, fails) if share <= 1 else (fits, step)
        if NEARLY <= share <= 1:
            break
        # The error is as the square of the step, but where most codes are 0 or weights have few values.
        factor = (AIM / max(share, 1e-9)) ** 0.5
        step *= min(max(factor, 1 / MOST_CHANGE), MOST_CHANGE)
        if not fits < step < fails:
            step = (fits * fails) ** 0.5
    return fits or step, kind


def _least_steps(matrix: Matrix) -> Matrix:
    """The step of each row, (rows, 1), at which its largest weight is in reach."""
    found: Matrix = np.abs(matrix).max(1, keepdims=True) / LARGEST
    return found


def _coded(matrix: Matrix, step: float, kind: int, shape: torch.Size) -> CodedTensor | None:
    steps = np.maximum(step, _least_steps(matrix)).astype(np.float32)
    if not (steps > 0).all():  # weights at the end of float32's range
        return None
    multiples = walked(matrix / steps, kind)
    most = int(np.abs(multiples).max())
    indices = torch.from_numpy((multiples + most).astype(np.uint8)).reshape(shape)
    if (steps == steps[0]).all():
        values = about_zero(evenly(torch.arange(1, most + 1) * torch.from_numpy(steps[0])))
        return CodedTensor(indices, values, trellis=kind)
    values = about_zero(torch.arange(1, most + 1).float())
    return CodedTensor(indices, values, torch.from_numpy(steps[:, 0].copy()), 0, kind)
