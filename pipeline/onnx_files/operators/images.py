"""Operators of ONNX on images."""

from __future__ import annotations

from functools import partial

from torch import Tensor
from torch.nn import functional as F

from ..resize import resize
from .kinds import Function, Given


def space_to_depth(given: Given) -> Function:
    """Build SpaceToDepth of constant blocks."""
    size = int(given.get("blocksize"))

    def apply(batch: int, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        blocks = x.reshape(n, c, h // size, size, w // size, size)
        return blocks.permute(0, 3, 5, 1, 2, 4).reshape(n, c * size * size, h // size, w // size)

    return apply


def grid_sample(given: Given) -> Function:
    """Build GridSample."""
    mode = {"linear": "bilinear", "cubic": "bicubic"}.get(
        given.get("mode", "bilinear"), given.get("mode", "bilinear")
    )
    return lambda batch, x, grid: F.grid_sample(
        x, grid, mode, given.get("padding_mode", "zeros"), bool(given.get("align_corners", 0))
    )


def global_max(batch: int, x: Tensor) -> Tensor:
    """Take the maximum of each channel, as GlobalMaxPool does."""
    return x.amax(list(range(2, x.dim())), keepdim=True)


def resized(given: Given) -> Function:
    """Build Resize by constant sizes or scales."""
    sizes, scales = given.sizes(3), given.constants.get(2)
    scale = None if scales is None or not scales.size else tuple(float(s) for s in scales.reshape(-1))
    whole = None if sizes is None or not sizes.values else sizes.values
    axes = None if given.get("axes") is None else tuple(given.get("axes"))
    return partial(resize, attributes=dict(given.attributes), scales=scale, sizes=whole, axes=axes)


def upsample(given: Given) -> Function:
    """Build Upsample, Resize as old opsets had it."""
    scales = given.constants[1].reshape(-1) if 1 in given.constants else given.get("scales")
    old = {
        "mode": given.get("mode", "nearest"),
        "coordinate_transformation_mode": "asymmetric",
        "nearest_mode": "floor",
    }
    return partial(resize, attributes=old, scales=tuple(float(s) for s in scales), sizes=None, axes=None)
