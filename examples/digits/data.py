"""Handwritten digits (scikit-learn's `load_digits`): 1,797 grey images of 8x8 pixels, ten classes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .models import IMAGE_SIZE

PART_SIZES = {"train": 997, "calibration": 150, "validation": 200, "test": 450}
SEED = 0


def digits(size: int = IMAGE_SIZE) -> dict[str, tuple[Tensor, Tensor]]:
    """The parts train, calibration, validation and test, disjoint and always the same: (images, labels) each.

    Images are float32 (n, 1, size, size) in -1..1, enlarged (bilinear) so that the networks have some work
    to do; labels are int64 (n,).
    """
    from sklearn.datasets import load_digits

    source = load_digits()
    pixels = torch.from_numpy(source.images).float()[:, None]  # 0..16
    images = F.interpolate(pixels / 8 - 1, size=(size, size), mode="bilinear", align_corners=False)
    labels = torch.from_numpy(source.target).long()
    return {name: (images[rows], labels[rows]) for name, rows in split(len(labels)).items()}


def split(count: int) -> dict[str, Tensor]:
    """Row numbers of each part, from a seeded permutation of `count` rows."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(SEED))
    return dict(zip(PART_SIZES, torch.split(order, list(PART_SIZES.values())), strict=True))
