"""Ridge regression of a change of a layer's weight, and its strength by samples that it was not fitted to."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

RIDGES = (1e-6, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Strengths that are tried, in units of the mean energy of an input."""
ROWS = 4096
"""Rows that are held in float64 at once."""


@dataclass(frozen=True)
class Rows:
    """What a layer was given, (rows, inputs), and what its outputs lack there, (rows, outputs).

    weights: how much each row counts, (rows,), positive.
    """

    inputs: Tensor
    lacking: Tensor
    weights: Tensor

    def chunks(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Some rows at a time, and their weights, (rows, 1), in float64."""
        parts = (torch.split(each, ROWS) for each in (self.inputs, self.lacking, self.weights[:, None]))
        for x, y, w in zip(*parts, strict=True):
            yield x.double(), y.double(), w.double()

    def energy(self) -> float:
        """The weighted sum of squares of what the outputs lack."""
        return weighted_energy(self.lacking, self.weights)


def weighted_energy(values: Tensor, weights: Tensor, around: Tensor | float = 0.0) -> float:
    """The sum of weights (rows,) times squares of values (rows, ...) less `around`, in float64."""
    parts = zip(torch.split(values, ROWS), torch.split(weights, ROWS), strict=True)
    return sum(float(w.double() @ (x.double() - around).square().sum(1)) for x, w in parts)


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """The mean of rows by their weights, float64."""
    parts = zip(torch.split(values, ROWS), torch.split(weights, ROWS), strict=True)
    return torch.stack([w.double() @ x.double() for x, w in parts]).sum(0) / weights.sum(dtype=torch.float64)


@dataclass(frozen=True)
class Change:
    """What is added to a weight, (outputs, inputs), and to the bias, (outputs,), zeros where it stays; float64."""

    weight: Tensor
    bias: Tensor
    ridge: float

    def error(self, rows: Rows) -> float:
        """The weighted sum of squares of what the outputs still lack."""
        return sum(
            float((w * (y - x @ self.weight.T - self.bias).square()).sum()) for x, y, w in rows.chunks()
        )


def changes(rows: Rows, with_bias: bool) -> Iterator[Change]:
    """argmin ||lacking - X Wᵀ - b||² + λ ||W||² for each λ of `RIDGES`, times the mean diagonal of XᵀX, rows weighted.

    with_bias: whether b is free, and not held back, X then being centered; else b is 0. There are none where all inputs
    are zeros (or all alike), or something is not finite.
    """
    x_mean, y_mean = (
        weighted_mean(each, rows.weights) if with_bias else each.new_zeros(each.shape[1], dtype=torch.float64)
        for each in (rows.inputs, rows.lacking)
    )
    gram, products = x_mean.new_zeros(len(x_mean), len(x_mean)), x_mean.new_zeros(len(x_mean), len(y_mean))
    for x, y, w in rows.chunks():
        centered = x - x_mean
        gram += (w * centered).T @ centered
        products += (w * centered).T @ (y - y_mean)
    mean = float(gram.diagonal().mean())
    if not (math.isfinite(mean) and mean > 0):
        return
    for ridge in RIDGES:
        damped = gram.clone()
        damped.diagonal().add_(ridge * mean)
        weight = torch.cholesky_solve(products, torch.linalg.cholesky(damped)).T
        yield Change(weight, y_mean - weight @ x_mean, ridge)


def best_change(fit: Rows, held_out: Rows, with_bias: bool) -> tuple[Change, float] | None:
    """The change that leaves the least error on `held_out`, and that; None where none makes it smaller."""
    least, found = held_out.energy(), None
    for change in changes(fit, with_bias):
        error = change.error(held_out)
        if error < least:
            least, found = error, (change, error)
    return found
