"""Profile: latency, executed precision, memory, energy and layers of ONNX files on each device, in turns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path

from ...errors import CompressError, DeviceUnavailableError
from ...progress import Progress, Silent
from ...targets.measuring.device import BuiltOnlyError, Device
from ...targets.measuring.feeds import FeedSequence
from ...targets.measuring.latency import speedup_in_turns
from ..devices.feeds import batch_of, random_sequence
from ..devices.opened import folder_name, opened
from ..devices.sections import DeviceSection
from ..environment import environment
from ..files import sha256_file
from ..launch_inputs import default_inputs, input_count
from ..onnx_files.file import read_graph
from ..run_record import EngineRecord, plain_settings
from .record import DeviceProfile, Profile, Profiles, Ratio
from .timing import Cell, ProfilePlan, time_engines


@dataclass(frozen=True)
class _Model:
    """A model with what it is fed. name: of its rows, unlike every other one's."""

    name: str
    path: Path
    fed: FeedSequence
    batch: int
    varies: bool


def profile(
    onnx_paths: Sequence[Path],
    sections: Mapping[str, DeviceSection],
    folder: Path,
    plan: ProfilePlan = ProfilePlan(),
    progress: Progress = Silent(),
) -> Profiles:
    """Build every model for every device in `folder`, and time the engines of each in turns.

    A device that is not here, or a runtime that refuses a model, is a row with its reason. CompressError when a
    file is no ONNX model, or has an axis besides the batch without a size.
    """
    models = _models(onnx_paths, plan)
    batch = models[0].batch if any(model.varies for model in models) else 0
    cells: dict[tuple[str, str], Cell] = {}
    with opened(sections, batch) as devices:
        for model in models:
            for label, device in devices.items():
                progress.say(f"{label}: building {model.path.name}")
                inner = (model.name,) if len(models) > 1 else ()
                place = folder.joinpath(*inner, folder_name(label))
                cells[model.name, label] = _built(device, model, place)
        time_engines(cells, {model.name: model.fed for model in models}, plan, progress)
    return Profiles(
        names=[model.name for model in models],
        profiles=[_profile(model, cells, plan) for model in models],
        ratios=_ratios(cells),
    )


def _models(paths: Sequence[Path], plan: ProfilePlan) -> list[_Model]:
    graphs = [read_graph(path) for path in paths]
    default = default_inputs(graphs)
    models: list[_Model] = []
    for path, graph in zip(paths, graphs, strict=True):
        batch, varies = batch_of(graph, plan.batch)
        inputs = input_count(plan.samples, batch, "--samples") if plan.samples else default
        taken = {model.name for model in models}
        own = (path.stem, f"{path.resolve().parent.name}-{path.stem}")
        names = chain(own, (f"{path.stem}-{number}" for number in count(2)))
        name = next(name for name in names if name not in taken)
        models.append(
            _Model(
                name,
                path,
                random_sequence(graph, batch, plan.seed, inputs, asked=bool(plan.samples)),
                batch,
                varies,
            )
        )
    if len({model.batch for model in models}) > 1:
        told = ", ".join(f"{m.name} {m.batch}" for m in models)
        raise CompressError(
            f"the models take other batches ({told}); export them with one batch, or a dynamic one"
        )
    return models


def _built(device: Device, model: _Model, place: Path) -> Cell:
    """The row of a model on a device so far, and its engine when there is something to time."""
    row = DeviceProfile(
        device=device.options.device, runtime=device.runtime, version=None, status="run", label=device.label,
        options=device.options.declared(),
    )  # fmt: skip
    cell = Cell(row, device, model.batch)
    try:
        facts = device.facts()
        row.version, row.machine = facts.version, facts.machine
        cell.frozen = frozen = device.build(model.path, place, model.fed.feeds[0])
    except BuiltOnlyError as error:
        row.status, row.reason = "built", error.built.reason
        size = sum(artefact.path.stat().st_size for artefact in error.built.artefacts)
        settings = plain_settings(error.built.settings)
        row.engine = EngineRecord(label=device.label, settings=settings, engine_bytes=size)
    except DeviceUnavailableError as error:
        row.status, row.reason = "unavailable", str(error)
    except CompressError as error:
        row.status, row.reason = "failed", str(error)
    else:
        row.engine_sha256 = frozen.sha256
        row.engine = EngineRecord(
            label=device.label,
            settings=plain_settings(frozen.settings),
            engine_bytes=frozen.bytes,
            precision=frozen.precision,
            layers=list(frozen.layers),
        )
    return cell


def _profile(model: _Model, cells: Mapping[tuple[str, str], Cell], plan: ProfilePlan) -> Profile:
    rows = [cell.row for (name, _), cell in cells.items() if name == model.name]
    return Profile(
        source=model.path.name,
        sha256=sha256_file(model.path),
        inputs={name: list(array.shape) for name, array in model.fed.feeds[0].items()},
        batch=model.batch,
        pairs=plan.pairs,
        iterations=plan.iterations,
        float_precision=", ".join(dict.fromkeys(row.options["float_precision"] for row in rows)),
        seed=plan.seed,
        environment=environment(),
        devices=rows,
    )


def _ratios(cells: Mapping[tuple[str, str], Cell]) -> list[Ratio]:
    """Each model against the first one that was timed on the same device."""
    first: dict[str, tuple[str, Cell]] = {}
    ratios = []
    for (name, label), cell in cells.items():
        if not cell.launches:
            continue
        if label not in first:
            first[label] = (name, cell)
            continue
        found = speedup_in_turns(first[label][1].launches, cell.launches)
        ratios.append(
            Ratio(
                device=label,
                first=first[label][0],
                other=name,
                ratio=found.ratio,
                ci95=found.ci95,
                pairs=found.pairs,
            )
        )
    return ratios
