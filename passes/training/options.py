"""The options that every pass which trains has in its section `training`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from ...calibration.named import is_callable_name

BUILT_IN = ("flip_horizontal", "flip_vertical", "shift")


def _augmentation(value: str) -> str:
    if value in BUILT_IN or is_callable_name(value):
        return value
    raise ValueError(f"expected {', '.join(BUILT_IN)} or pkg.module:function")


Augmentation = Annotated[str, AfterValidator(_augmentation)]


class TrainingOptions(BaseModel):
    """How a pass trains: AdamW, a cosine schedule after a warm-up, the best epoch kept."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    epochs: int = Field(10, ge=0, le=10_000, description="Passes over the samples that are learned from.")
    batch: int = Field(32, ge=1, le=65_536, description="Samples in one step, over all processes.")
    accumulate: int = Field(
        1, ge=1, le=1024, description="Parts that a batch is computed in, one after another, to save memory."
    )
    lr: float = Field(
        1e-4,
        gt=0,
        le=10,
        description="Largest learning rate, at the end of the warm-up. Pretrained transformers want less than"
        " convolutions do: at 16 in a batch often 1e-6.",
    )
    warmup: float = Field(0.05, ge=0, le=1, description="Share of the steps in which the rate rises to `lr`.")
    weight_decay: float = Field(0.0, ge=0, le=10, description="AdamW's decay of weights (not of biases).")
    clip_norm: float | None = Field(
        None, gt=0, description="Largest norm of the gradients; longer ones are shortened to it."
    )
    augment: tuple[Augmentation, ...] = Field(
        (),
        description="Random changes of the inputs: flip_horizontal, flip_vertical, shift (by up to an eighth),"
        " or pkg.module:function (inputs, generator) -> inputs.",
    )
    keep: Literal["best", "last"] = Field(
        "best",
        description="Which epoch's weights are kept: the best on the validation part (the untrained start only where it"
        " is better by more than a standard error), or the last.",
    )
    patience: int | None = Field(
        None, ge=1, le=10_000, description="Stop after so many epochs without a better validation metric."
    )
    amp: Literal["auto", "bf16", "off"] = Field(
        "auto",
        description="Mixed precision: auto on CUDA alone; bf16 on any device, also on CPUs, where those with BF16"
        " instructions are faster by it; or off.",
    )
    checkpoint_seconds: float = Field(
        30.0, ge=0, le=86_400, description="Time between checkpoints; a killed run resumes from the last one."
    )
