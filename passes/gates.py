"""`gates`: channels, heads and blocks that the network can do without are found by trained gates, and removed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from ..calibration.named import is_callable_name
from ..form import Form
from .base import PassContext, PassPlan
from .gating.options import NOTHING_HINT, GatesOptions

if TYPE_CHECKING:
    from ..model import Model


class Gates(GatesOptions):
    """Trainable-gate pruning (Kim et al., AAAI 2020): a smaller network of a given share of parameters, MACs or ms."""

    name: ClassVar[str] = "gates"
    file_options: ClassVar[tuple[str, ...]] = ("table",)

    def files(self) -> tuple[Path, ...]:
        """The latency table, where one is named."""
        return () if self.table is None else (self.table,)

    def require_files(self, batch: int) -> None:
        """The table is there, is one, has all its networks, and was measured with as many samples at once."""
        if self.table is None:
            return
        from .gating.table import read_table

        read_table(self.name, self.table, batch)

    def why_not(self, model: Model) -> str:
        """Where nothing can be removed, the reasons."""
        from .channels.dissect import nothing_to_remove

        reason = nothing_to_remove(model, self.name, self.rules)
        return f"{reason}; {NOTHING_HINT}" if reason else ""

    def by_latency(self) -> bool:
        """Where that is the cost."""
        return self.cost == "latency"

    def measures_latency(self) -> bool:
        """Where no table is named, a run measures its own."""
        return self.by_latency() and self.table is None

    def functions(self) -> tuple[str, ...]:
        """Augmentations of the user."""
        return tuple(name for name in self.training.augment if is_callable_name(name))

    @property
    def takes(self) -> frozenset[Form]:
        """A network of modules: in a captured graph layers and blocks can no longer be told apart."""
        return frozenset({Form.MODULES})

    def leaves(self, taken: Form) -> Form:
        """A smaller one of the same modules."""
        return taken

    def plan(self, model: Model, context: PassContext) -> PassPlan:
        """Decide what goes, remove it, and train what is left."""
        from .gating.phases import Phases

        return Phases(self, model, context).plan()

    def rebuild(self, model: Model, plan: PassPlan, context: PassContext) -> Model:
        """The network without what was removed, with its trained tensors."""
        from .gating.planned import networks_in

        chosen, *others = networks_in(plan, model)
        return replace(chosen[1], siblings=dict(others))
