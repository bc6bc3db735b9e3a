"""Operators of ONNX that take some of the elements, or put some around them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .kinds import Function, Given

if TYPE_CHECKING:
    import onnx


def slicing(given: Given) -> Function:
    """Build Slice with constant bounds, also backwards."""
    starts, ends, axes, steps = (
        given.sizes(index, name) for index, name in enumerate(("starts", "ends", "axes", "steps"), 1)
    )
    assert starts is not None and ends is not None

    def apply(batch: int, x: Tensor) -> Tensor:
        first, last = starts.at(batch), ends.at(batch)
        where = axes.values if axes is not None else range(len(first))
        for axis, start, end, step in zip(
            where, first, last, steps.values if steps else [1] * len(first), strict=True
        ):
            x = _sliced(x, axis % x.dim(), start, end, step)
        return x

    return apply


def _sliced(x: Tensor, axis: int, start: int, end: int, step: int) -> Tensor:
    if step > 0:
        return x[(slice(None),) * axis + (slice(start, end, step),)]
    taken = range(*slice(start, end, step).indices(x.shape[axis]))
    return x.index_select(axis, torch.tensor(list(taken), dtype=torch.int64, device=x.device))


def split(given: Given) -> Function:
    """Build Split into constant sizes, or into equal ones."""
    axis, sizes = int(given.get("axis", 0)), given.sizes(1, "split")

    def apply(batch: int, x: Tensor) -> tuple[Tensor, ...]:
        parts = sizes.at(batch) if sizes is not None else -(-x.shape[axis] // given.outputs)
        found = torch.split(x, parts, dim=axis)
        return found if given.outputs > 1 else found[0]  # type: ignore[return-value]

    return apply


def row_major(node: onnx.NodeProto, stored: set[str]) -> bool:
    """Tell whether every output of a node is read: only then is it split here."""
    return "" not in node.output


def gather(given: Given) -> Function:
    """Constant indices: one is a slice, several are a selection."""
    axis, indices = int(given.get("axis", 0)), given.constants[1].astype(np.int64)
    if indices.ndim == 0:
        return lambda batch, x: x.select(axis, int(indices))

    def apply(batch: int, x: Tensor) -> Tensor:
        a = axis % x.dim()
        chosen = torch.tensor(indices.reshape(-1) % x.shape[a], device=x.device)
        return x.index_select(a, chosen).reshape(*x.shape[:a], *indices.shape, *x.shape[a + 1 :])

    return apply


_PAD_MODES = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}


def pad(given: Given) -> Function:
    """Build Pad by constant sizes; axes that get nothing are left out."""
    pads, axes = given.sizes(1, "pads"), given.sizes(3)
    mode = _PAD_MODES[given.get("mode", "constant")]
    filling = given.constants[2].item() if 2 in given.constants else given.get("value", 0.0)
    assert pads is not None

    def apply(batch: int, x: Tensor) -> Tensor:
        where = [a % x.dim() for a in axes.values] if axes is not None else list(range(x.dim()))
        both = {a: (pads.values[i], pads.values[i + len(where)]) for i, a in enumerate(where)}
        first = min((a for a, p in both.items() if p != (0, 0)), default=x.dim())
        if first == x.dim():
            return x
        if mode != "constant":  # torch takes pairs for all axes but the first one or two
            first = min(first, 2 if x.dim() > 2 else 1)
        flat = [size for axis in reversed(range(first, x.dim())) for size in both.get(axis, (0, 0))]
        return F.pad(x, flat, mode, filling) if mode == "constant" else F.pad(x, flat, mode)

    return apply


def triangle(given: Given) -> Function:
    """Build Trilu: what lies above or below a diagonal."""
    diagonal, upper = int(given.constants[1]) if 1 in given.constants else 0, bool(given.get("upper", 1))
    return lambda batch, x: x.triu(diagonal) if upper else x.tril(diagonal)
