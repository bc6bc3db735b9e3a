"""Operators of ONNX that give elements another shape, or repeat them; sizes may grow with the batch."""

from __future__ import annotations

import torch
from torch import Tensor

from .kinds import Function, Given, Sizes


def reshape(given: Given) -> Function:
    """Build Reshape; a size may grow with the batch, and 0 keeps the input's."""
    wanted, zero = given.sizes(1, "shape"), bool(given.get("allowzero", 0))
    assert wanted is not None

    def apply(batch: int, x: Tensor) -> Tensor:
        sizes = wanted.at(batch)
        kept = [i for i, value in enumerate(wanted.values) if value == 0 and not zero]
        return x.reshape([x.shape[i] if i in kept else size for i, size in enumerate(sizes)])

    return apply


def flatten(given: Given) -> Function:
    """Build Flatten at a constant axis."""
    axis = int(given.get("axis", 1))

    def apply(batch: int, x: Tensor) -> Tensor:
        return x.flatten(1) if axis % max(x.dim(), 1) == 1 and x.dim() > 1 else x.reshape(_rows(x, axis), -1)

    return apply


def _rows(x: Tensor, axis: int) -> int:
    rows = 1
    for size in x.shape[: axis + x.dim() if axis < 0 else axis]:
        rows = rows * size
    return rows


def expand(given: Given) -> Function:
    """Build Expand to constant sizes, some of which may grow with the batch."""
    wanted = given.sizes(1)
    assert wanted is not None

    def apply(batch: int, x: Tensor) -> Tensor:
        sizes: list[int] = wanted.at(batch)
        missing = x.dim() - len(sizes)
        sizes = [1] * missing + sizes
        new = len(sizes) - x.dim()
        ones = [1] * max(missing, 0) + [v == 1 and not g for v, g in _marked(wanted)]
        return x.expand(
            [-1 if one and i >= new else s for i, (s, one) in enumerate(zip(sizes, ones, strict=True))]
        )

    return apply


def _marked(sizes: Sizes) -> list[tuple[int, bool]]:
    return list(zip(sizes.values, sizes.by_batch or (False,) * len(sizes.values), strict=True))


def squeeze(given: Given) -> Function:
    """Build Squeeze of constant axes, or of all that are 1."""
    axes = given.sizes(1, "axes")

    def apply(batch: int, x: Tensor) -> Tensor:
        return x.squeeze() if axes is None else x.squeeze(tuple(a % x.dim() for a in axes.values))

    return apply


def unsqueeze(given: Given) -> Function:
    """Build Unsqueeze at constant axes."""
    axes = given.sizes(1, "axes")
    assert axes is not None

    def apply(batch: int, x: Tensor) -> Tensor:
        rank = x.dim() + len(axes.values)
        for axis in sorted(a % rank for a in axes.values):
            x = x.unsqueeze(axis)
        return x

    return apply


def tile(given: Given) -> Function:
    """Build Tile by constant repeats."""
    repeats = given.sizes(1)
    assert repeats is not None
    return lambda batch, x: x.repeat(repeats.at(batch))


def constant_of_shape(given: Given) -> Function:
    """Build ConstantOfShape of sizes that may grow with the batch."""
    sizes, filling = given.sizes(0), given.get("value")
    value = torch.zeros(1) if filling is None else filling.to_torch()
    assert sizes is not None
    return lambda batch: torch.full(sizes.at(batch), value.item(), dtype=value.dtype)


def arange(given: Given) -> Function:
    """Build Range between numbers that may grow with the batch."""
    start, limit, step = (given.sizes(index) for index in range(3))
    assert start is not None and limit is not None and step is not None
    return lambda batch: torch.arange(start.at(batch)[0], limit.at(batch)[0], step.at(batch)[0])
