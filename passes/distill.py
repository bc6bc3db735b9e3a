"""`distill`: a smaller or low-precision student learns from the trained network, with its weights already quantized."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from ..calibration.named import is_callable_name
from .base import NetworkSource, Pass, PassContext, PassPlan
from .distillation.options import DistillOptions

if TYPE_CHECKING:
    from ..model import Model


class Distill(DistillOptions):
    """Quantized distillation and differentiable quantization (Polino et al. 2018): INT8 and fewer bits, trained."""

    name: ClassVar[str] = "distill"

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
        from .distillation.student import student_of
        from .quantization.quantizers import stored_bytes
        from .quantization.rebuild import rebuild_graph

        student = student_of(model, self.student, plan.structure["student"], context)
        if plan.structure["quantized"] is None:
            network = copy.deepcopy(student.module)  # the student may be the very network that teaches it
            network.load_state_dict({name: tensor.clone() for name, tensor in plan.tensors.items()})
            return student.successor(network)
        quantized = rebuild_graph(student, plan.structure["quantized"], plan.tensors)
        return student.successor(quantized, stored_bytes=stored_bytes(quantized))
