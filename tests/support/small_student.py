"""A small network, its samples, and what `distill` makes of it in a second or two."""

from __future__ import annotations

import json
from typing import Any

import torch
from edgepress.model import Model
from edgepress.passes.base import PassContext
from edgepress.passes.distill import Distill
from quantization_nets import context_of, model_of, samples
from torch import nn

FAST: dict[str, Any] = {"equalization": "off", "ranges": "minmax"}
PART = samples(24, 1, 8, 8)


def small_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.ReLU(),
        nn.Conv2d(8, 12, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, 3),
    )


def small_model() -> Model:
    return model_of(small_network(), 1, 8, 8)


def distilled(model: Model | None = None, context: PassContext | None = None, **options: Any) -> Any:
    training = {"epochs": 2, "batch": 8, "lr": 1e-3, **options.pop("training", {})}
    read = Distill.model_validate_json(json.dumps({**FAST, **options, "training": training}), strict=True)
    return read.apply(model or small_model(), context or context_of(PART))
