"""Random changes of a batch of inputs, the same for teacher and student."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from ...calibration.named import call, import_callable
from ...errors import CompressError
from .draws import Draws

Inputs = tuple[Tensor, ...]
SHIFT = 8  # by up to an eighth of the side


def augmented(inputs: Inputs, names: Sequence[str], draws: Draws, folder: Path | None = None) -> Inputs:
    """The inputs, each (batch, ...), changed by each of `names` in turn; images are inputs of (batch, c, h, w).

    A function of the user gets (inputs, generator) and returns inputs of the same shapes.
    """
    for name in names:
        if name in _IMAGE_CHANGES:
            chosen = draws.uniform(name, 2)
            inputs = tuple(_IMAGE_CHANGES[name](x, chosen) if x.dim() == 4 else x for x in inputs)
        else:
            inputs = _by_user(inputs, name, draws, folder)
    return inputs


def _by_user(inputs: Inputs, name: str, draws: Draws, folder: Path | None) -> Inputs:
    what = f"training.augment {name}"
    function = import_callable(name, "training.augment", folder)
    changed = call(function, what, inputs, draws.shared(f"{name}/{draws.rows.start}"))
    tensors = (changed,) if isinstance(changed, Tensor) else changed
    expected = [tuple(x.shape) for x in inputs]
    shapes = [getattr(x, "shape", None) for x in tensors] if isinstance(tensors, (tuple, list)) else []
    if [tuple(shape or ()) for shape in shapes] != expected:
        raise CompressError(
            f"{what}: gets (inputs, generator), inputs a tuple of tensors of shapes {expected}, and must return such a"
            f" tuple; it returned a {type(changed).__name__} that is none"
        )
    return tuple(tensors)


def _flip(axis: int, x: Tensor, chosen: Tensor) -> Tensor:
    """Each image mirrored with probability one half."""
    return torch.where((chosen[:, 0] < 0.5).view(-1, 1, 1, 1), x.flip(axis), x)


def _shift(x: Tensor, chosen: Tensor) -> Tensor:
    """Each image moved by up to an eighth of its height and width; its edge fills the gap."""
    high, wide = (max(1, side // SHIFT) for side in x.shape[-2:])
    padded = F.pad(x, (wide, wide, high, high), mode="replicate")
    moved = []
    for image, (down, right) in zip(padded, chosen.tolist(), strict=True):
        top, left = int(down * (2 * high + 1)), int(right * (2 * wide + 1))
        moved.append(image[:, top : top + x.shape[-2], left : left + x.shape[-1]])
    return torch.stack(moved)


_IMAGE_CHANGES = {
    "flip_horizontal": lambda x, chosen: _flip(-1, x, chosen),
    "flip_vertical": lambda x, chosen: _flip(-2, x, chosen),
    "shift": _shift,
}
