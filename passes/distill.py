"""`distill`: a smaller or low-precision student learns from the trained network, with its weights already quantized."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from ..calibration.named import is_callable_name
from ..calibration.scheme import RangeChoice
from .base import NetworkSource, Pass, PassContext, PassPlan
from .training.options import TrainingOptions

if TYPE_CHECKING:
    from ..model import Model


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


class Distill(Pass):
    """Quantized distillation and differentiable quantization (Polino et al. 2018): INT8 and fewer bits, trained."""

    name: ClassVar[str] = "distill"

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
        if self.teacher_dropping and not self.teachers:
            raise ValueError("teacher_dropping: needs more than one teacher; name others under `teachers`")
        return self

    @property
    def quantizes(self) -> bool:
        """Unless the student stays float."""
        return self.weight_bits != "float"

    def networks(self) -> tuple[NetworkSource, ...]:
        """The student, when it has a source of its own, and the further teachers."""
        student = (self.student,) if self.student.source else ()
        return (*student, *self.teachers)

    def functions(self) -> tuple[str, ...]:
        """Factories and augmentations."""
        named = (*(network.source for network in self.networks()), *self.training.augment)
        return tuple(name for name in named if is_callable_name(name))

    def refuses_after(self, earlier: Sequence[Pass]) -> str | None:
        """Quantizers cannot be trained a second time, and a captured graph has no blocks to leave out."""
        if done := next((p for p in earlier if p.quantizes), None):
            return (
                f"the network is already quantized here, by the {done.name} above: distill calibrates and places the"
                " quantizers that it trains itself, so leave the other out"
            )
        return None

    def plan(self, model: Model, context: PassContext) -> PassPlan:
        """Derive the student, train it in float where it is another network, quantize it, and train it again."""
        from .distillation.phases import Phases

        return Phases(self, model, context).plan()

    def rebuild(self, model: Model, plan: PassPlan, context: PassContext) -> Model:
        """The student with its trained tensors: a float network, or the quantized graph."""
        from .distillation.phases import student_of
        from .quantization.quantizers import stored_bytes
        from .quantization.rebuild import rebuild_graph

        student = student_of(self, model, plan.structure["student"], context)
        if plan.structure["quantized"] is None:
            network = copy.deepcopy(student.module)  # the student may be the very network that teaches it
            network.load_state_dict({name: tensor.clone() for name, tensor in plan.tensors.items()})
            return student.successor(network)
        quantized = rebuild_graph(student, plan.structure["quantized"], plan.tensors)
        return student.successor(quantized, stored_bytes=stored_bytes(quantized))
