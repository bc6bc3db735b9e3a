"""`tokens`: a vision transformer drops and merges the patch tokens that its outputs depend on least."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from ..calibration.named import is_callable_name
from ..form import Form
from .base import PassContext, PassPlan
from .merging.options import TokensOptions

if TYPE_CHECKING:
    from ..model import Model


class Tokens(TokensOptions):
    """Token compression of vision transformers (after DiffRate, Chen et al., ICCV 2023), without training a weight."""

    name: ClassVar[str] = "tokens"
    file_options: ClassVar[tuple[str, ...]] = ("schedule",)

    def files(self) -> tuple[Path, ...]:
        """The schedule, where one is given."""
        return () if self.schedule is None else (self.schedule,)

    def require_files(self, batch: int) -> None:
        """The schedule is there, and is one."""
        if self.schedule is not None:
            from .merging.schedule import Schedule

            Schedule.read(self.schedule)

    def why_not(self, model: Model) -> str:
        """Where there is no transformer whose blocks are known, that."""
        from .merging.encoder import NoEncoderError, token_network

        try:
            token_network(model.module, model.example_inputs)
        except NoEncoderError as error:
            return f"{error}; leave out the pass"
        return ""

    def by_latency(self) -> bool:
        """Where that is the cost."""
        return self.cost == "latency"

    def measures_latency(self) -> bool:
        """Always measured, where it is the cost."""
        return self.by_latency()

    def functions(self) -> tuple[str, ...]:
        """Augmentations of the user."""
        return tuple(name for name in self.training.augment if is_callable_name(name))

    @property
    def takes(self) -> frozenset[Form]:
        """A network of modules: in a captured graph blocks can no longer be told apart."""
        return frozenset({Form.MODULES})

    def leaves(self, taken: Form) -> Form:
        """The same modules on fewer tokens."""
        return taken

    def plan(self, model: Model, context: PassContext) -> PassPlan:
        """Decide how many tokens each block keeps."""
        from .merging.planning import Planning

        return Planning(self, model, context).plan()

    def rebuild(self, model: Model, plan: PassPlan, context: PassContext) -> Model:
        """The network with the blocks that drop and merge."""
        from .merging.encoder import rebuilt
        from .merging.settings import Settings, set_up

        settings = Settings.from_json(plan.structure)
        network = rebuilt(model.module, model.example_inputs, settings.encoder)
        return model.successor(set_up(network, settings), model.form, removals=None)
