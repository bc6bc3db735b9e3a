"""The recipe: what a user asks for, as data. `recipe_file` reads one from YAML and places its errors."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SerializeAsAny

from ..passes.base import Pass


class Section(BaseModel):
    """A part of a recipe: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelSection(Section):
    """Which network, and which weights."""

    source: str
    """`pkg.module:factory`, `timm:NAME`, `torchvision:NAME`, or a `.pt2` or `.onnx` file."""
    args: dict[str, Any] = {}
    """Keyword arguments of the factory."""
    weights: Path | None = None
    """A `.safetensors` file or a weights-only `.pt` file."""
    input_shape: tuple[int, ...] | None = None
    """Shape of one sample without the batch, when no data says it: [3, 224, 224]."""
    outputs: tuple[str, ...] = ("logits",)


class ImagePreprocessing(Section):
    """What happens to each image of a folder: resize to `size` x `size` (bilinear, antialiased), then (x/255 - mean)/std."""

    size: int = Field(224, ge=8, le=4096)
    channels: Literal[1, 3] = 3
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)


class DataSection(Section):
    """Where samples come from, and how they are split."""

    source: str
    """`pkg.module:factory`, a folder with one sub-folder a class, or an `.npz` file with arrays `x` and `y`."""
    args: dict[str, Any] = {}
    split: dict[Literal["train", "calibration", "validation", "test"], float] | None = None
    """Fractions of the parts, when the source does not come in parts; default 0.6 / 0.1 / 0.1 / 0.2."""
    preprocess: ImagePreprocessing = ImagePreprocessing()
    calibration_samples: int = Field(256, ge=1)
    """At most so many samples of the calibration part are used."""


_BYTE_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def _parse_bytes(value: object) -> object:
    if isinstance(value, str):
        match = re.fullmatch(r"\s*([0-9.]+)\s*([A-Za-z]*)\s*", value)
        if match is None or match[2].upper() not in _BYTE_UNITS:
            raise ValueError("expected a size such as 2 MB, 500 kB or 1.5 MiB")
        return int(float(match[1]) * _BYTE_UNITS[match[2].upper()])
    return value


def _parse_ms(value: object) -> object:
    if isinstance(value, str):
        match = re.fullmatch(r"\s*([0-9.]+)\s*(ms|us|µs|s)\s*", value)
        if match is None:
            raise ValueError("expected a time such as 5 ms, 800 us or 0.1 s")
        return float(match[1]) * {"ms": 1.0, "us": 1e-3, "µs": 1e-3, "s": 1e3}[match[2]]
    return value


class MetricDrop(Section):
    """How much of the metric may be lost: in points of the metric (0.005 = half a point), or relative to the float value."""

    fraction: float = Field(ge=0.0, le=1.0)
    relative: bool = False


def _parse_drop(value: object) -> object:
    if isinstance(value, str):
        match = re.fullmatch(r"\s*([0-9.]+)\s*(points?|%)\s*", value)
        if match is None:
            raise ValueError('expected a drop such as "0.5 points" or "1 %" (relative to the float model)')
        return {"fraction": float(match[1]) / 100, "relative": match[2] == "%"}
    return value


Milliseconds = Annotated[float, BeforeValidator(_parse_ms), Field(gt=0)]
Bytes = Annotated[int, BeforeValidator(_parse_bytes), Field(gt=0)]
Drop = Annotated[MetricDrop, BeforeValidator(_parse_drop)]


class Budgets(Section):
    """The promise to keep. What is not named here is reported and not judged."""

    metric_drop: Drop | None = None
    latency: dict[str, Milliseconds] = {}
    """Median latency per device, as `openvino:CPU: 5 ms`."""
    speedup: dict[str, Annotated[float, Field(gt=0)]] = {}
    """Least speed-up over the float engine (f32) per device; its 95 % interval must lie above."""
    int8_share: dict[str, Annotated[float, Field(ge=0, le=1)]] = {}
    """Least share of the MACs that each device must execute in INT8."""
    bytes: Bytes | None = None
    """Largest size of the exported model file."""


class TargetSection(Section):
    """A device to build for and measure on: `openvino:CPU`, `onnxruntime`, `tensorrt`."""

    runtime: str
    device: str = ""
    threads: int = Field(0, ge=0)
    float_precision: Literal["default", "f32"] = "default"
    compute_capabilities: tuple[str, ...] = ()
    required: bool = False
    """Whether the run ends with exit code 5 when this device is not here."""

    @property
    def label(self) -> str:
        """The name that budgets and reports use: `openvino:CPU`."""
        return f"{self.runtime}:{self.device}" if self.device else self.runtime


class ExportSection(Section):
    """How the ONNX file is written."""

    opset: int = Field(19, ge=18, le=20)
    ir_version: int = Field(9, ge=8, le=10)
    dynamic_batch: bool = True


class MeasureSection(Section):
    """How latency is measured."""

    pairs: int = Field(6, ge=2, le=50)
    """Interleaved launches (own processes) of each engine; the speed-up's interval is over these pairs."""
    iterations: int = Field(60, ge=11)
    """Timed inferences in each launch."""
    batch: int = Field(1, ge=1)


class Recipe(Section):
    """A whole recipe. Paths are relative to the recipe's own folder."""

    name: str = ""
    model: ModelSection
    data: DataSection
    metric: str = "top1"
    """`top1`, `topK` (as `top5`), or `pkg.module:function` (outputs, labels) -> per-sample scores."""
    passes: tuple[SerializeAsAny[Pass], ...] = ()
    export: ExportSection = ExportSection()
    targets: tuple[TargetSection, ...] = Field(min_length=1)
    measure: MeasureSection = MeasureSection()
    budgets: Budgets = Budgets()
    seed: int = Field(0, ge=0)
