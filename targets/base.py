"""The contract of a target: a module that fits `Target`. Vendor libraries are imported inside its functions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from ..calibration.scheme import QuantScheme

Feeds = Mapping[str, "np.ndarray[Any, Any]"]
FloatPrecision = Literal["default", "f32"]


@dataclass(frozen=True)
class TargetOptions:
    """A device of a runtime, and how to build for it.

    device: what follows the colon in `openvino:CPU`; "" means the runtime's own default device.
    float_precision: what the float layers run in: "default" is the runtime's choice (BF16 on some CPUs), "f32" is forced.
    threads: 0 means the runtime's own choice.
    compute_capabilities: TensorRT only: the GPUs to build for ahead of time, as "SM86".
    """

    device: str = ""
    float_precision: FloatPrecision = "default"
    threads: int = 0
    compute_capabilities: tuple[str, ...] = ()


@dataclass(frozen=True)
class Layer:
    """One layer as the runtime executed it.

    name: the runtime's; onnx_nodes: names of the ONNX nodes fused in it; macs: their multiply-accumulates, one sample;
    precision: what it *executed* in ("int8", "bf16", "f32", ...); ms: mean time per inference, None when not measured.
    """

    name: str
    type: str
    precision: str
    ms: float | None = None
    macs: int = 0
    onnx_nodes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Artefact:
    """A file the build left behind, for the run folder."""

    path: Path
    kind: str


@dataclass(frozen=True)
class Lint:
    """One thing that a runtime would refuse, run in float, or clip without a word."""

    node: str
    severity: Literal["refused", "float", "clips"]
    problem: str
    fix: str


class Engine(Protocol):
    """A model built for one device."""

    settings: dict[str, Any]
    """The effective settings, as the runtime tells them: threads, streams, precision hint."""
    artefacts: tuple[Artefact, ...]

    def run(self, feeds: Feeds) -> list[np.ndarray[Any, Any]]:
        """One synchronous inference; arrays in and out by value, in the model's output order."""

    def layers(self, feeds: Feeds, iterations: int) -> list[Layer]:
        """Every executed layer with its executed precision and mean time over `iterations`."""


class Target(Protocol):
    """What each module of this package provides, and `TARGETS` lists."""

    name: str
    scheme: QuantScheme

    def version(self) -> str | None:
        """The library's version, None when it is not installed."""

    def devices(self) -> list[str]:
        """The devices here, as they may follow the colon; empty when none."""

    def unavailable(self, device: str) -> str | None:
        """Why nothing can *run* on `device` here, in words; None when it can."""

    def can_build(self) -> str | None:
        """Why nothing can even be *built* here, in words; None when it can (TensorRT builds without a GPU)."""

    def build(self, onnx_path: Path, options: TargetOptions, folder: Path) -> Engine | BuiltOnly:
        """Build `onnx_path` and leave the engine files in `folder`; CompressError when the runtime refuses it."""

    def lint(self, onnx_path: Path) -> list[Lint]:
        """What this runtime would refuse, run in float or clip silently, each with its fix."""


@dataclass(frozen=True)
class BuiltOnly:
    """Engines that were built but cannot run here."""

    reason: str
    artefacts: tuple[Artefact, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
