"""The targets, by the name that a recipe gives them."""

from __future__ import annotations

from typing import cast

from . import onnxruntime, openvino, tensorrt
from .base import FAKE, Target

TARGETS: dict[str, Target] = {
    module.name: cast(Target, module) for module in (openvino, onnxruntime, tensorrt)
}
REFERENCE = onnxruntime.name
"""The runtime whose word it is what an ONNX file computes: exports are proven on it."""


def target_of(runtime: str) -> Target:
    """The target that computes for a runtime of this name: for simulated devices, which have none, the reference."""
    return TARGETS[REFERENCE if runtime == FAKE else runtime]


def runtime_packages() -> list[str]:
    """The distributions of all runtimes, installed or not."""
    return [package for target in TARGETS.values() for package in target.packages]
