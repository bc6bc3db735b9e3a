"""A pass in small, to derive from: it takes float networks and leaves them what they are."""

from __future__ import annotations

from edgepress.form import FLOAT, Form
from edgepress.model import Model
from edgepress.passes.base import Pass, PassContext, PassPlan


class FloatPass(Pass):
    """Does nothing to any float network."""

    @property
    def takes(self) -> frozenset[Form]:
        return FLOAT

    def leaves(self, taken: Form) -> Form:
        return taken

    def plan(self, model: Model, context: PassContext) -> PassPlan:
        return PassPlan({}, {})

    def rebuild(self, model: Model, plan: PassPlan, context: PassContext) -> Model:
        return model
