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
SEARCHES, CORRECTIONS = 6, 3
WALKED = 0.25
"""The mean squared error of a walk through wide weights, in squared steps, about."""
NEARLY, AIM = 0.97, 0.985
"""Of the error asked for: where the search ends, and what it aims at."""


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
    step, kind = _step_and_kind(_sample(matrix), error)
    for _ in range(CORRECTIONS):
        found = _coded(matrix, step, kind, weight.shape)
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


def _sample(matrix: Matrix) -> Matrix:
    """Some columns, spread over the matrix: what is walked is walked down columns."""
    columns = max(1, SAMPLE // len(matrix))
    return matrix[:, :: max(1, matrix.shape[1] // columns)]


def _step_and_kind(matrix: Matrix, error: float) -> tuple[float, int]:
    """The step at which the error is nearly the one asked for, and the kind of trellis that is better about there."""
    energy = float(np.square(matrix).mean()) or 1.0
    step = (error * energy / WALKED) ** 0.5
    kind = kind_for(matrix / _steps(matrix, step))
    for _ in range(SEARCHES):
        steps = _steps(matrix, step)
        multiples = walked(matrix / steps, kind)
        share = float(np.square(multiples * steps - matrix).mean()) / energy / error
        if NEARLY <= share <= 1:
            break
        step *= (
            AIM / share
        ) ** 0.5  # the error is as the square of the step, or grows less where most codes are 0
    return step, kind


def _steps(matrix: Matrix, step: float) -> Matrix:
    """The step of each row, (rows, 1): wider where the row's largest weight would be out of reach."""
    steps: Matrix = np.maximum(step, np.abs(matrix).max(1, keepdims=True) / LARGEST)
    return steps


def _coded(matrix: Matrix, step: float, kind: int, shape: torch.Size) -> CodedTensor:
    steps = _steps(matrix, step).astype(np.float32)
    multiples = walked(matrix / steps, kind)
    most = int(np.abs(multiples).max())
    indices = torch.from_numpy((multiples + most).astype(np.uint8)).reshape(shape)
    if (steps == steps[0]).all():
        values = about_zero(evenly(torch.arange(1, most + 1) * torch.from_numpy(steps[0])))
        return CodedTensor(indices, values, trellis=kind)
    values = about_zero(torch.arange(1, most + 1).float())
    return CodedTensor(indices, values, torch.from_numpy(steps[:, 0].copy()), 0, kind)
