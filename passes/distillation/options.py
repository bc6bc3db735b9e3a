"""The options of `distill`, as recipes write them."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from ...calibration.scheme import RangeChoice
from ..base import NetworkSource, Pass
from ..training.options import TrainingOptions

NAME_A_FACTORY = "Name a factory for the student instead: `student: {source: pkg.module:factory}`."


class StudentOptions(NetworkSource):
    """Who learns: the network itself, a smaller one derived from it, or another one by its factory."""

    source: str = Field(
        "",
        description="A network of its own: pkg.module:factory, timm:NAME, torchvision:NAME; empty derives one.",
    )
    depth: float = Field(1.0, gt=0, le=1, description="Share of the repeated blocks that is kept.")
    width: float = Field(
        1.0, gt=0, le=1, description="Share of the channels, and of a transformer's heads, kept."
    )

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.source and (self.depth < 1 or self.width < 1):
            raise ValueError("expected a source, or depth and width to derive a student by, not both")
        if not self.source and (self.weights or self.args):
            raise ValueError(
                "expected a source beside weights and args: a derived student inherits its weights"
            )
        return self

    @property
    def same(self) -> bool:
        """Whether the student is the network itself."""
        return not self.source and self.depth == self.width == 1


class TeacherOptions(NetworkSource):
    """A further teacher, beside the network itself."""

    weight: float = Field(1.0, gt=0, le=1000, description="Its weight; the network itself has 1.")


def _student(value: object) -> object:
    if isinstance(value, str) and value != "same":
        raise ValueError("expected same, or a mapping with depth and width, or with a source")
    return {} if value == "same" else value


def _bucket(value: object) -> object:
    if value == "channel" or (isinstance(value, int) and not isinstance(value, bool) and 8 <= value <= 2**20):
        return value
    raise ValueError("expected channel, or a number of weights from 8 on")


class DistillOptions(Pass):
    """Who learns from whom, in how many bits, and for how long."""

    student: Annotated[StudentOptions, BeforeValidator(_student)] = Field(
        StudentOptions(),
        description="same (fine-tune the network itself), depth and width to derive a smaller one, or a source.",
    )
    weight_bits: Literal[2, 3, 4, 5, 6, 7, 8, "float"] = Field(
        8, description="Bits of the weights; float trains a student without quantizing it."
    )
    first_last_bits: Literal[2, 3, 4, 5, 6, 7, 8] = Field(
        8, description="Bits of the first and last layer's weights, at least weight_bits."
    )
    bucket: Annotated[Literal["channel"] | int, BeforeValidator(_bucket)] = Field(
        "channel",
        description="What shares a scale: each output channel, which runtimes multiply in INT8 at any number of"
        " bits, or so many consecutive weights, which are computed in float.",
    )
    rounding: Literal["deterministic", "stochastic"] = Field(
        "deterministic",
        description="How weights of fewer than 8 bits are rounded while training; they end deterministic.",
    )
    activations: Literal["int8", "float"] = Field(
        "int8", description="Activations on the targets' grid, or float."
    )
    ranges: RangeChoice = Field("auto", description="How activation ranges are calibrated, as in `quantize`.")
    learn_ranges: bool = Field(
        True, description="Whether activation ranges learn along, or stay as calibrated."
    )
    equalization: Literal["auto", "on", "off"] = Field(
        "auto", description="As in `quantize`, before training."
    )
    keep_float: tuple[str, ...] = Field(
        (), description="Layers to leave in float, by name or pattern (`head`, `blocks.0.*`)."
    )
    points: Literal["uniform", "learned"] = Field(
        "uniform",
        description="Whether the points that stand for weights are equally spaced, or learn at the end (differentiable"
        " quantization): from quantiles, or from where training with quantizers left them.",
    )
    points_epochs: int = Field(5, ge=0, le=10_000, description="Epochs in which learned points are trained.")
    points_lr: float = Field(1e-2, gt=0, le=10, description="Their learning rate, on weights scaled to 0..1.")
    redistribute_bits: bool = Field(
        False, description="Give more bits to layers with larger gradients; weight_bits is then the mean."
    )
    temperature: float = Field(2.0, gt=0, le=100, description="Softens the outputs that are compared.")
    teacher_weight: float = Field(
        0.7,
        ge=0,
        le=1,
        description="Teachers' share of the loss; at 1 labels are not used, at 0 no teacher is.",
    )
    teachers: tuple[TeacherOptions, ...] = Field(
        (), description="Further teachers, beside the network itself."
    )
    teacher_dropping: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Probability, sample by sample, of not hearing a teacher that the student is not farthest from.",
    )
    features: Literal["off", "auto"] | dict[str, str] = Field(
        "off", description="Intermediate outputs to match: auto, or pairs of modules, student's: teacher's."
    )
    feature_weight: float = Field(1.0, gt=0, le=1000, description="Their weight in the loss.")
    float_epochs: int | None = Field(
        None,
        ge=0,
        le=10_000,
        description="Epochs in float before the quantizers come; default training.epochs for another student,"
        " 0 for the network itself.",
    )
    float_lr: float = Field(5e-4, gt=0, le=10, description="Learning rate of these.")
    training: TrainingOptions = Field(TrainingOptions(), description="How the quantized student trains.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.points == "learned" and self.weight_bits in (8, "float"):
            raise ValueError(f"points: learned needs weight_bits from 2 to 7, got {self.weight_bits}")
        if self.redistribute_bits and self.weight_bits in (8, "float"):
            raise ValueError(f"redistribute_bits: needs weight_bits from 2 to 7, got {self.weight_bits}")
        if self.weight_bits != "float" and self.first_last_bits < self.weight_bits:
            raise ValueError(f"first_last_bits: expected at least weight_bits, {self.weight_bits}")
        if self.student.source.endswith((".pt2", ".onnx")) and self.epochs_in_float:
            raise ValueError(
                f"float_epochs: expected 0 for the student {self.student.source}, got {self.epochs_in_float}: such a"
                " file is one graph, which has no BatchNorm left to train in float"
            )
        if self.teacher_dropping and not self.teachers:
            raise ValueError("teacher_dropping: needs more than one teacher; name others under `teachers`")
        return self

    @property
    def epochs_in_float(self) -> int:
        """How long the student trains before any quantizer comes."""
        if self.float_epochs is not None:
            return self.float_epochs
        as_it_was = self.student.same and self.weight_bits != "float"
        return 0 if as_it_was else self.training.epochs
