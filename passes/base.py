"""The contract of a pass: frozen options, a plan that is pure data, and surgery that follows the plan."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from ..calibration.scheme import QuantScheme
from ..errors import CompressError
from ..form import Form
from ..progress import Progress, Silent

if TYPE_CHECKING:
    import torch

    from ..calibration.data import DataParts
    from ..calibration.latency_table import LatencyTable
    from ..calibration.metric import Metric
    from ..calibration.times import Times
    from ..model import Model


class NetworkSource(BaseModel):
    """A further network that a pass reads: a teacher, a student."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str = Field(description="pkg.module:factory, timm:NAME, torchvision:NAME, a .pt2 or .onnx file.")
    args: dict[str, Any] = Field({}, description="Keyword arguments of the factory.")
    weights: Path | None = Field(None, description="A .safetensors or weights-only .pt file.")
    weights_key: str | None = Field(None, description="Which state dict of a checkpoint with several.")

    def files(self) -> list[Path]:
        """The files that the network is made of."""
        named = [Path(self.source)] if self.source.endswith((".pt2", ".onnx")) else []
        return named + ([self.weights] if self.weights is not None else [])


@dataclass(frozen=True)
class PassContext:
    """What a pass may look at beside its model.

    layer_ms: times a model's layers on the recipe's first device; latency_table: what its layers take there at any
    widths, in the precision that the recipe ends in; times: what networks made of a model take there, each in turns
    with it. measured_on: digest of that device, as it tells of itself, and of how it is measured. ends_in: that
    precision, int8 or float, where it is known; batch: samples in one inference, 0 where that is not known.
    machines: the recipe's targets, each with the machine that it is in, or empty.
    load_network: reads a further network, whose inputs are the data's.
    scratch: where a pass may keep unfinished work, to resume from when it is killed. folder: the recipe's, where
    functions of the user lie. packed_bytes: what a model takes as a packed file.
    """

    data: DataParts
    metric: Metric
    scheme: QuantScheme = field(default_factory=QuantScheme)
    seed: int = 0
    device: str = "cpu"
    progress: Progress = field(default_factory=Silent)
    layer_ms: Callable[[Model], Mapping[str, float]] | None = None
    latency_table: Callable[[Model], LatencyTable] | None = None
    times: Callable[[Model, Sequence[Model]], Sequence[Times]] | None = None
    measured_on: str = ""
    ends_in: str = ""
    batch: int = 0
    machines: Mapping[str, str] = field(default_factory=dict)
    load_network: Callable[[NetworkSource], Model] | None = None
    scratch: Path | None = None
    folder: Path | None = None
    packed_bytes: Callable[[Model], int] | None = None

    def generator(self) -> torch.Generator:
        """A fresh random generator under the recipe's seed."""
        import torch

        return torch.Generator().manual_seed(self.seed)


@dataclass(frozen=True)
class PassPlan:
    """All that a pass decided, as data: stored between runs, and enough to rebuild its model.

    structure: JSON values (which layers, which grids); tensors: the weights and scales, by name.
    modified: False when there was nothing to do, and then `notes` says why.
    details: JSON values for the report; they decide nothing.
    """

    structure: dict[str, Any]
    tensors: dict[str, torch.Tensor]
    modified: bool = True
    notes: tuple[str, ...] = ()
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PassResult:
    """A pass applied: the new model, and what the report says of it."""

    model: Model
    modified: bool
    notes: tuple[str, ...]
    plan: PassPlan


class Pass(BaseModel, ABC):
    """One compression pass. Its fields are its only options: recipe syntax, `--help` text and report row in one.

    By what it takes and leaves, orders of passes are judged before any work; every option has a default.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    name: ClassVar[str]
    file_options: ClassVar[tuple[str, ...]] = ()
    """Options that name a file, relative to the recipe as all its files are; the pass asks for it when it is needed."""

    @property
    @abstractmethod
    def takes(self) -> frozenset[Form]:
        """The forms of networks that it can work on, with these options."""

    @abstractmethod
    def leaves(self, taken: Form) -> Form:
        """The form of the network that it makes of one of the form `taken`, which is among those that it takes."""

    @abstractmethod
    def plan(self, model: Model, context: PassContext) -> PassPlan:
        """Decide everything from the model and the data; the input model is not touched."""

    @abstractmethod
    def rebuild(self, model: Model, plan: PassPlan, context: PassContext) -> Model:
        """The compressed model that `plan` describes; the same for the same plan, in any process."""

    def networks(self) -> tuple[NetworkSource, ...]:
        """The further networks that the pass reads."""
        return ()

    def files(self) -> tuple[Path, ...]:
        """The files that the pass reads, whose content its result depends on."""
        return tuple(path for network in self.networks() for path in network.files())

    def require_files(self, batch: int) -> None:
        """CompressError for a file of an option that is not there or of no use; asked before any work.

        batch: samples that one inference is measured with.
        """

    def why_not(self, model: Model) -> str:
        """Why the pass can do nothing with a model of a form that it takes, "" where it can; found without data."""
        return ""

    def by_latency(self) -> bool:
        """Whether the result depends on milliseconds, out of a file or measured."""
        return False

    def measures_latency(self) -> bool:
        """Whether a run measures those milliseconds, on its first device."""
        return False

    def functions(self) -> tuple[str, ...]:
        """The functions of the user, `pkg.module:function`, whose code the result depends on."""
        return ()

    def apply(self, model: Model, context: PassContext) -> PassResult:
        """Plan, then rebuild: a fresh run and a resumed one take the same path to the model."""
        plan = self.plan(model, context)
        return self.result(model, plan, context)

    def result(self, model: Model, plan: PassPlan, context: PassContext) -> PassResult:
        """The result of a plan, fresh or stored; CompressError when its form is not what the pass promised."""
        if not plan.modified:
            return PassResult(model, False, plan.notes, plan)
        compressed, promised = self.rebuild(model, plan, context), self.leaves(model.form)
        if compressed.form != promised:
            raise CompressError(
                f"pass {self.name}: it says that of {model.form} it leaves {promised}, and it left {compressed.form}"
            )
        return PassResult(compressed, True, plan.notes, plan)
