"""Weights to few values at a stated squared error of each tensor by itself: no data, no training."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...model import CodedTensor
from .coded import about_zero, evenly
from .dependent import LARGEST, walked

Matrix = NDArray[np.float64]

LEAST_WEIGHTS = 1024
"""Smaller tensors stay as they are: biases and scales, which take no room and are worth every bit."""
SAMPLE = 1 << 16
"""Weights on which the step is found; the whole tensor is rounded once or twice then."""
SEARCHES = 12
FINEST = 4096.0
"""The largest weight over the finest step that is tried; rows of larger weights get wider ones."""
NEARLY = 0.97
CORRECTIONS = 3


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
    step = _step_for(_sample(matrix), error)
    for _ in range(CORRECTIONS):
        found = _coded(matrix, step, weight.shape)
        missed = (
            float(np.square(found.tensor().reshape(matrix.shape).numpy() - matrix).sum()) / energy / error
        )
        if missed <= 1:
            return found
        step *= (NEARLY / missed) ** 0.5
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


def _sample(matrix: Matrix) -> Matrix:
    """Some columns, spread over the matrix: what is walked is walked down columns."""
    columns = max(1, SAMPLE // len(matrix))
    return matrix[:, :: max(1, matrix.shape[1] // columns)]


def _step_for(matrix: Matrix, error: float) -> float:
    """The step, by bisection on its logarithm, at which the error is nearly the one asked for."""
    energy = float(np.square(matrix).sum()) or 1.0
    high = np.log(float(np.abs(matrix).max()) or 1.0)
    low = high - np.log(FINEST)
    for _ in range(SEARCHES):
        middle = (low + high) / 2
        steps = _steps(matrix, float(np.exp(middle)))
        share = float(np.square(walked(matrix / steps) * steps - matrix).sum()) / energy / error
        if NEARLY <= share <= 1:
            return float(np.exp(middle))
        low, high = (middle, high) if share < 1 else (low, middle)
    return float(np.exp(low))


def _steps(matrix: Matrix, step: float) -> Matrix:
    """The step of each row, (rows, 1): wider where the row's largest weight would be out of reach."""
    steps: Matrix = np.maximum(step, np.abs(matrix).max(1, keepdims=True) / LARGEST)
    return steps


def _coded(matrix: Matrix, step: float, shape: torch.Size) -> CodedTensor:
    steps = _steps(matrix, step).astype(np.float32)
    multiples = walked(matrix / steps)
    most = int(np.abs(multiples).max())
    indices = torch.from_numpy((multiples + most).astype(np.uint8)).reshape(shape)
    if (steps == steps[0]).all():
        values = about_zero(evenly(torch.arange(1, most + 1) * torch.from_numpy(steps[0])))
        return CodedTensor(indices, values, path=0)
    values = about_zero(torch.arange(1, most + 1).float())
    return CodedTensor(indices, values, torch.from_numpy(steps[:, 0].copy()), axis=0, path=0)
