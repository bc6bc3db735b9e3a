"""`distill`: a smaller or low-precision student learns from the trained network, with its weights already quantized."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, ClassVar

from ..calibration.named import is_callable_name
from ..form import FLOAT, Form, form_named
from .base import NetworkSource, PassContext, PassPlan
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

    @property
    def takes(self) -> frozenset[Form]:
        """Any float network; one of modules where it is cut into a student, or trains in float, itself."""
        itself = not self.student.source
        in_modules = itself and (not self.student.same or self.epochs_in_float > 0)
        return frozenset({Form.MODULES}) if in_modules else FLOAT

    def leaves(self, taken: Form) -> Form:
        """A graph with quantizers; of a float student what the student is."""
        if self.weight_bits != "float":
            return Form.INT8
        return form_named(self.student.source) if self.student.source else taken

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
            return student.successor(network, student.form)
        quantized = rebuild_graph(student, plan.structure["quantized"], plan.tensors)
        return student.successor(quantized, Form.INT8, stored_bytes=stored_bytes(quantized))
