"""The recipe: what a user asks for, as data. `file` reads one from YAML and places its errors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, SerializeAsAny, model_validator

from ...passes.base import Pass
from ...section import Section
from ..budgets import Budgets
from ..devices.sections import DeviceSection
from .values import Bytes, MetricName, ModelSource, RunName


def _split(value: dict[str, float]) -> dict[str, float]:
    for part in ("calibration", "validation"):
        if not value.get(part):
            raise ValueError(f"expected a fraction above 0 for {part}, which every run needs")
    if (total := sum(value.values())) > 1 + 1e-9:
        raise ValueError(f"expected fractions that sum to at most 1, and they sum to {total:.6g}")
    return value


Shape = tuple[Annotated[int, Field(ge=1)], ...]


class ModelSection(Section):
    """Which network, and which weights."""

    source: ModelSource
    """`pkg.module:factory`, `timm:NAME`, `torchvision:NAME`, or a `.pt2` or `.onnx` file."""
    args: dict[str, Any] = {}
    """Keyword arguments of the factory."""
    weights: Path | None = None
    """A `.safetensors`, `.l2z` or weights-only `.pt` file; `package:pkg.name/file` lies in an installed package."""
    weights_key: str | None = Field(default=None, min_length=1)
    """Which state dict of a checkpoint with several: `state_dict_ema`; by default the averaged one where it fits."""
    input_shape: Shape | dict[str, Shape] | None = None
    """Shape of one sample without the batch, when no data says it: [3, 224, 224]; of several by name."""
    outputs: tuple[str, ...] = Field(default=("logits",), min_length=1)
    """Names of the network's outputs, in order; the metric reads the first."""


class ImagePreprocessing(Section):
    """What happens to each image of a folder: resize (bilinear, antialiased), then (x/255 - mean)/std."""

    size: int = Field(default=224, ge=8, le=4096)
    """Height and width in pixels."""
    channels: Literal[1, 3] = 3
    """1 for grey, 3 for RGB; a grey image is repeated."""
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    """Subtracted from each channel, on the scale 0 to 1."""
    std: tuple[Annotated[float, Field(gt=0)], ...] = (0.229, 0.224, 0.225)
    """What each channel is then divided by."""

    @model_validator(mode="after")
    def _one_value_per_channel(self) -> Self:
        if {len(self.mean), len(self.std)} != {self.channels}:
            raise ValueError(
                f"expected mean and std with one value for each channel, which are {self.channels}"
            )
        return self


SplitPart = Literal["train", "calibration", "validation", "test"]
Fraction = Annotated[float, Field(ge=0, le=1)]


class DataSection(Section):
    """Where samples come from, and how they are split."""

    source: str
    """`pkg.module:factory`, a folder with a sub-folder for each class, or an `.npz` file with `x` and `y`."""
    args: dict[str, Any] = {}
    """Keyword arguments of the factory."""
    split: Annotated[dict[SplitPart, Fraction], AfterValidator(_split)] | None = None
    """Fractions of the parts, when the source does not come in parts; default 0.6 / 0.1 / 0.1 / 0.2."""
    preprocess: ImagePreprocessing = ImagePreprocessing()
    """How images become inputs; for image folders only."""
    calibration_samples: int = Field(default=256, ge=1)
    """Most samples of the calibration part that are used."""


class TargetSection(DeviceSection):
    """A device to build for and measure on: `openvino:CPU`, `onnxruntime`, `tensorrt`, or a name of devices.yaml."""

    name: str = ""
    """Name of the device in devices.yaml; empty for a device of this machine that is named by its runtime."""
    required: bool = False
    """Whether the run ends with exit code 5 when this device is not here."""

    @property
    def label(self) -> str:
        """The name that budgets and reports use: `openvino:CPU`."""
        return self.name or (f"{self.runtime}:{self.device}" if self.device else self.runtime)


class ExportSection(Section):
    """How the ONNX file is written."""

    opset: int = Field(default=19, ge=18, le=20)
    """ONNX operator set."""
    ir_version: int = Field(default=9, ge=8, le=10)
    """ONNX file format; older runtimes read older versions."""
    dynamic_batch: bool = True
    """Whether the file takes any batch size."""


class MeasureSection(Section):
    """How latency is measured."""

    pairs: int = Field(default=6, ge=2, le=50)
    """Launches (own processes) of each engine, which take turns; the speed-up's interval is over these rounds."""
    iterations: int = Field(default=60, ge=11)
    """Timed inferences in each launch."""
    warmup_s: float = Field(default=3.0, ge=0, le=60)
    """Longest warm-up of a launch in seconds; it ends earlier when three windows agree within 1 %."""
    batch: int = Field(default=1, ge=1, le=65_536)
    """Samples in one inference."""
    samples: int | None = Field(default=None, ge=1, le=1024)
    """Samples of the judged part that a launch is fed in turn, in their order; 1: the example input again and again.
    Default: 1, and 64 where the exported graph's work depends on the data (conditions, loops, sizes)."""
    between: bool = True
    """Whether the models between passes are timed, too: how many milliseconds each pass gave or took."""
    timeout_s: float = Field(default=600.0, gt=0, le=86400)
    """Longest that building, loading, one inference or a whole timed launch of an engine may take; then it failed."""
    memory: Bytes | None = None
    """Most memory that an engine's process may hold before it counts as failed; default nine tenths of what is free."""

    @model_validator(mode="after")
    def _whole_batches(self) -> Self:
        if self.samples is not None and self.samples > 1 and self.samples % self.batch:
            raise ValueError(f"samples: expected a multiple of batch, {self.batch}, or 1, got {self.samples}")
        return self


class Recipe(Section):
    """A whole recipe. Paths are relative to the recipe's own folder."""

    name: RunName = ""
    """What the reports call the run; the recipe's file name when not given."""
    model: ModelSection
    """The network and its weights."""
    data: DataSection
    """The samples that decide numbers."""
    metric: MetricName = "top1"
    """`top1`, `topK` (as `top5`), or `pkg.module:function` (outputs, labels) -> per-sample scores."""
    passes: tuple[SerializeAsAny[Pass], ...] = ()
    """What is done to the network, in this order: `- quantize`, or `- quantize:` with options below it."""
    export: ExportSection = ExportSection()
    """The ONNX file."""
    targets: tuple[TargetSection, ...] = Field(min_length=1)
    """The devices: `- openvino:CPU`, `- openvino:CPU:` with options below it, or the name of a device in the
    devices.yaml beside the recipe, which may be reached over SSH or simulated."""
    measure: MeasureSection = MeasureSection()
    """How latency is taken."""
    budgets: Budgets = Budgets()
    """The limits that the verdict is made of."""
    seed: int = Field(default=0, ge=0, le=2**32 - 1)
    """Decides every random choice of the run."""

    @model_validator(mode="after")
    def _targets_once(self) -> Self:
        labels = [target.label for target in self.targets]
        if twice := next((label for label in labels if labels.count(label) > 1), None):
            raise ValueError(f"{twice} is listed twice: budgets and reports name a target once")
        return self
