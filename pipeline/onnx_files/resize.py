"""ONNX Resize in PyTorch: by `interpolate` where the two agree exactly, else by explicit positions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


def resize(
    batch: int,
    x: Tensor,
    attributes: Mapping[str, Any],
    scales: Sequence[float] | None,
    sizes: Sequence[int] | None,
    axes: Sequence[int] | None,
) -> Tensor:
    """x (n, c, ...) with its spatial axes resized. scales, sizes: one number an axis of `axes`, default all axes.

    Raises NotImplementedError for what neither `interpolate` nor a choice of nearest neighbours can say.
    """
    if attributes.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise NotImplementedError("Resize that keeps the aspect ratio")
    given = sizes if sizes is not None else scales
    assert given is not None
    by_axis = {
        a % x.dim(): g for a, g in zip(axes if axes is not None else range(x.dim()), given, strict=True)
    }
    spatial = list(range(2, x.dim()))
    outer = [a for a in (0, 1) if a in by_axis and scales is not None and sizes is None and by_axis[a] != 1]
    if outer or (sizes is not None and 1 in by_axis and by_axis[1] != x.shape[1]):
        raise NotImplementedError("Resize of the batch or the channels")
    if sizes is not None:
        target = [int(by_axis.get(a, x.shape[a])) for a in spatial]
        factors = [t / x.shape[a] for t, a in zip(target, spatial, strict=True)]
    else:
        factors = [float(by_axis.get(a, 1.0)) for a in spatial]
        target = [int(np.floor(x.shape[a] * f)) for a, f in zip(spatial, factors, strict=True)]
    how = str(attributes.get("coordinate_transformation_mode", "half_pixel"))
    mode = str(attributes.get("mode", "nearest"))
    if mode == "nearest":
        return _nearest(x, target, factors, how, str(attributes.get("nearest_mode", "round_prefer_floor")))
    return _smooth(x, target, None if sizes is not None else factors, mode, how, attributes)


def _nearest(x: Tensor, target: list[int], factors: list[float], how: str, rounding: str) -> Tensor:
    if how == "asymmetric" and rounding == "floor" and all(f == int(f) for f in factors):
        return F.interpolate(x, size=target, mode="nearest")
    for axis, (size, factor) in enumerate(zip(target, factors, strict=True), 2):
        if size != x.shape[axis] or factor != 1:
            chosen = _positions(int(x.shape[axis]), size, factor, how, rounding)
            x = x.index_select(axis, torch.tensor(chosen, device=x.device))
    return x


def _positions(old: int, new: int, factor: float, how: str, rounding: str) -> list[int]:
    """Which input each output takes, by the formulas of the operator's specification."""
    out = np.arange(new, dtype=np.float64)
    if how == "asymmetric":
        at = out / factor
    elif how == "align_corners":
        at = out * (old - 1) / (new - 1) if new > 1 else out * 0
    elif how == "half_pixel" or (how == "pytorch_half_pixel" and new > 1):
        at = (out + 0.5) / factor - 0.5
    elif how == "pytorch_half_pixel":
        at = out * 0
    elif how == "half_pixel_symmetric":
        at = old / 2 * (1 - new / (factor * old)) + (out + 0.5) / factor - 0.5
    else:
        raise NotImplementedError(f"Resize with coordinates {how}")
    rounded = {
        "round_prefer_floor": lambda: np.ceil(at - 0.5),
        "round_prefer_ceil": lambda: np.floor(at + 0.5),
        "floor": lambda: np.floor(at),
        "ceil": lambda: np.ceil(at),
    }[rounding]()
    return [int(i) for i in np.clip(rounded, 0, old - 1)]


def _smooth(
    x: Tensor,
    target: list[int],
    factors: list[float] | None,
    mode: str,
    how: str,
    attributes: Mapping[str, Any],
) -> Tensor:
    if how not in ("half_pixel", "pytorch_half_pixel", "align_corners"):
        raise NotImplementedError(f"{mode} Resize with coordinates {how}")
    if mode == "cubic" and attributes.get("cubic_coeff_a", -0.75) != -0.75:
        raise NotImplementedError("cubic Resize with another coefficient than -0.75")
    if attributes.get("exclude_outside", 0):
        raise NotImplementedError("Resize with exclude_outside")
    name = {
        ("linear", 1): "linear",
        ("linear", 2): "bilinear",
        ("linear", 3): "trilinear",
        ("cubic", 2): "bicubic",
    }
    chosen = name.get((mode, len(target)))
    if chosen is None:
        raise NotImplementedError(f"{mode} Resize of {len(target)} axes")
    return F.interpolate(
        x,
        size=target if factors is None else None,
        scale_factor=factors,
        mode=chosen,
        align_corners=how == "align_corners",
        antialias=bool(attributes.get("antialias", 0)),
    )
