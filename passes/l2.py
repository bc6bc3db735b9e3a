"""`l2`: lossy and lossless compression together (Shi et al. 2023), down to a small file that decodes bit for bit."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from ..form import FLOAT, Form
from .base import PassContext, PassPlan
from .lossy.options import L2Options

if TYPE_CHECKING:
    from ..model import Model


class L2(L2Options):
    """Weights to few codes under the rate of their entropy coder; the model ends in an .l2z file of a given size.

    Nothing looks at labels: the network learns from the outputs that it had.
    """

    name: ClassVar[str] = "l2"

    @property
    def takes(self) -> frozenset[Form]:
        """Any float network, and one that a pass quantized."""
        return FLOAT | {Form.INT8}

    def leaves(self, taken: Form) -> Form:
        """Its graph, of codes; of INT8 weights every k-th integer is left."""
        return Form.INT8_CODES if taken is Form.INT8 else Form.CODES

    def plan(self, model: Model, context: PassContext) -> PassPlan:
        """Units by importance, the step that meets the target, training under the rate, and rounding."""
        from .lossy.phases import Phases
        from .lossy.search import smallest

        phases = Phases(self, model, context)
        if self.max_drop is not None:
            return phases.planned(smallest(phases, self.max_drop))
        return phases.planned(phases.compressed(self.bytes or phases.float_bytes / self.ratio))

    def rebuild(self, model: Model, plan: PassPlan, context: PassContext) -> Model:
        """The captured graph with the tensors that the codes decode to."""
        from .lossy.stored import others_in, rebuilt, stored_in

        found = rebuilt(model, stored_in(plan), others_in(plan))
        return replace(found, stored_bytes=plan.structure["bytes"]) if plan.structure["axes"] else found
