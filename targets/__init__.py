"""The targets, by the name that a recipe gives them."""

from __future__ import annotations

from typing import cast

from . import onnxruntime, openvino, tensorrt
from .base import Target

TARGETS: dict[str, Target] = {
    module.name: cast(Target, module) for module in (openvino, onnxruntime, tensorrt)
}
