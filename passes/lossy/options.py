"""The options of `l2`, as recipes write them."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import ByteSize, Field, model_validator

from ..base import Pass
from ..training.options import TrainingOptions
from .names import KernelName, TransformName

LARGEST_RATIO = 1000


class TrainingOfCodes(TrainingOptions):
    """How a pass trains, with the rate that weights in steps of their codes take."""

    lr: float = Field(5e-3, gt=0, le=10, description="Largest learning rate, in steps of the weights' codes.")


class L2Options(Pass):
    """How small, by which transform, and how the network learns to undo the loss."""

    ratio: float = Field(
        10.0, gt=1, le=LARGEST_RATIO, description="Bytes of the float weights over those of the whole file."
    )
    bytes: ByteSize | None = Field(
        None, gt=0, description="Bytes of the whole file, such as 1.2MB, in place of `ratio`."
    )
    max_drop: float | None = Field(
        None,
        ge=0,
        le=100,
        description="Largest loss of the metric in points on the validation part, in place of `ratio`: the smallest"
        " file inside it is looked for by doubling and halving, with a training for each file tried.",
    )
    transform: TransformName = Field(
        "edge-scale", description="From weights to codes; step and edge of each tensor are learned."
    )
    kernel: KernelName = Field("triangular", description="Kernel of the differentiable counter.")
    kernel_width: float = Field(0.5, gt=0, le=8, description="Its half-width, in codes.")
    rate_weight: float = Field(
        2.0,
        ge=0,
        le=100,
        description="Weight of the rate while the file is too large; 1 is what a bit is worth to a uniform quantizer.",
    )
    samples: Literal["both", "train", "calibration"] = Field(
        "both",
        description="The parts whose inputs are learned from: train and calibration, or one of them; calibration where"
        " there is no train part. None may share samples with validation.",
    )
    importance_samples: int = Field(
        256,
        ge=1,
        le=65_536,
        description="Samples on which it is seen how much the outputs depend on each weight.",
    )
    transform_epochs: int = Field(1, ge=0, le=10_000, description="Epochs in which steps and edges learn.")
    transform_lr: float = Field(1e-2, gt=0, le=10, description="Their learning rate, on logarithms.")
    training: TrainingOfCodes = Field(
        TrainingOfCodes(),
        description="How the weights learn to undo the loss; the rate is in steps of their codes.",
    )
    temperature: float = Field(2.0, gt=0, le=100, description="Softens the outputs that are compared.")
    feature_weight: float = Field(
        1.0,
        ge=0,
        le=1000,
        description="Weight of intermediate outputs in the loss; 0 compares outputs alone.",
    )

    @model_validator(mode="after")
    def _one_target(self) -> Self:
        defaults = {"ratio": 10.0, "bytes": None, "max_drop": None}
        chosen = [name for name, default in defaults.items() if getattr(self, name) != default]
        if len(chosen) > 1:
            raise ValueError(f"expected one of ratio, bytes and max_drop, got {' and '.join(sorted(chosen))}")
        return self
