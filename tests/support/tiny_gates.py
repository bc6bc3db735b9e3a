"""A network of two convolutions and random images, so that all phases of `gates` take a moment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from edgepress.calibration.data import DataParts, Part
from edgepress.calibration.metric import TopK
from edgepress.calibration.samples import array_samples
from edgepress.model import Model
from edgepress.passes.base import PassContext
from torch import nn

CLASSES, SIDE = 4, 8
TRAINING: dict[str, Any] = {"epochs": 1, "batch": 16, "lr": 1e-4}


def network(*last: nn.Module) -> nn.Sequential:
    """Logits (n, 4) of images (n, 1, 8, 8), and the layers `last` behind them."""
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES), *last,
    ]  # fmt: skip
    return nn.Sequential(*layers).eval()


def model(module: nn.Module | None = None, static_batch: int | None = None) -> Model:
    """The network as passes are given it."""
    shape = (static_batch or 1, 1, SIDE, SIDE)
    return Model(module or network(), (torch.zeros(shape),), dynamic_batch=static_batch is None)


def context(
    scratch: Path | None = None, train: int = 32, calibration: int = 44, validation: int = 40
) -> PassContext:
    """Parts of so many images, a quarter of each class, one class after another as image folders have them."""
    parts = {}
    for name, count in (("train", train), ("calibration", calibration), ("validation", validation)):
        draws = torch.Generator().manual_seed(len(name))
        labels = torch.arange(count) * CLASSES // max(count, 1)
        images = torch.randn(count, 1, SIDE, SIDE, generator=draws) + labels.reshape(-1, 1, 1, 1)
        parts[name] = Part(name, array_samples(images, labels, name))
    data = DataParts(parts["train"], parts["calibration"], parts["validation"], None, manifest="0")
    return PassContext(data, TopK(1), scratch=scratch)
