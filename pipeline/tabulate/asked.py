"""What a user asks to be tabulated: a network by its name, timed as its recipe would have it, where it has one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...isolated import Limits
from ...progress import Progress, Silent
from ..devices.scheme import scheme_of
from ..ingest.model import ingest
from ..onnx_files.inputs import NOTHING, GivenShapes
from ..prepare import Prepared
from ..recipe.file import read_recipe
from ..recipe.sections import ModelSection
from .bench import TabulatePlan

if TYPE_CHECKING:
    from ...model import Model
    from ..devices.sections import DeviceSection


@dataclass(frozen=True)
class Asked:
    """A network, how it is timed, and the limits of the processes that do so. name: for its file."""

    name: str
    model: Model
    plan: TabulatePlan
    limits: Limits | None = None


def asked(
    named: str,
    devices: Mapping[str, DeviceSection],
    given: GivenShapes = NOTHING,
    trust_pickle: str | None = None,
    progress: Progress = Silent(),
) -> Asked:
    """What `named` is: a recipe, an .onnx file, pkg.module:factory, timm:NAME or torchvision:NAME.

    A recipe's network is quantized for the recipe's targets, any other for the device alone. Its data are read only
    where nothing else says what the network takes. given: shapes that a user states. Errors as `ingest`.
    """
    if not named.lower().endswith((".yaml", ".yml")):
        model = ingest(ModelSection(source=named), trust_pickle=trust_pickle, folder=Path(), given=given)
        ((label, section),) = devices.items()
        return Asked(_file_name(named), model, TabulatePlan(scheme=scheme_of(label, section)))
    path = Path(named)
    prepared = Prepared(read_recipe(path), path.resolve().parent, trust_pickle, progress)
    return Asked(prepared.recipe.name, prepared.network(given), prepared.tabulate_plan, prepared.limits)


def _file_name(source: str) -> str:
    """What a file is called after a source: `resnet18` of timm:resnet18, a .onnx file's own name."""
    return Path(source).stem if source.lower().endswith(".onnx") else source.rpartition(":")[2]
