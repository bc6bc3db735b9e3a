"""What is compared: a run folder, an ONNX or .l2z file, or an engine file; and the same inputs for both."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import BadZipFile

import numpy as np

from ...errors import CompressError
from ...targets import TARGETS
from ...targets.base import Target
from ...targets.measuring.device import Device, Frozen, LocalDevice
from ..devices.feeds import Feeds, batch_of, random_feeds
from ..devices.opened import folder_name
from ..files import sha256_file
from ..onnx_files.file import read_graph
from ..onnx_files.inputs import NOTHING, GivenShapes, with_shapes
from ..packing.as_onnx import as_onnx
from ..report.read import load_run
from ..run_record import RunRecord

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class Subject:
    """One side of a gate. path: what the user named; onnx: its graph, None for an engine; bytes: what is shipped."""

    path: Path
    name: str
    onnx: Path | None
    bytes: int
    run: RunRecord | None = None


@contextmanager
def subject(path: Path, given: GivenShapes = NOTHING) -> Iterator[Subject]:
    """Open what the user named, with these sizes where it leaves some open; CompressError if it cannot be measured."""
    with _opened(path) as side:
        if side.onnx is None:
            yield side
            return
        with with_shapes(side.onnx, given) as pinned:
            yield replace(side, onnx=pinned)


@contextmanager
def _opened(path: Path) -> Iterator[Subject]:
    if path.is_dir() or path.name == "run.json":
        yield _of_run(path if path.is_dir() else path.parent)
    elif not path.is_file():
        raise CompressError(
            f"{path}: no such file or folder; give a run folder, an .onnx, .l2z or engine file"
        )
    elif (target := _runs_engine(path)) is not None:
        yield Subject(path, path.stem, None, _bytes(*target.files(path)))
    else:
        with as_onnx(path) as graph:
            yield Subject(path, path.stem, graph, _bytes(path, *_beside(path)))


def _runs_engine(path: Path) -> Target | None:
    """The target whose engine a file is, by its suffix; an ONNX file is a model."""
    return next((t for t in TARGETS.values() if t.engine_suffix == path.suffix != ".onnx"), None)


def _bytes(*paths: Path) -> int:
    return sum(path.stat().st_size for path in paths if path.is_file())


def _beside(path: Path) -> list[Path]:
    """Files with weights of an ONNX file that lie beside it."""
    if path.suffix != ".onnx":
        return []
    from onnx.external_data_helper import ExternalDataInfo, uses_external_data

    graph = read_graph(path).graph
    return [
        path.parent / name
        for name in sorted({ExternalDataInfo(t).location for t in graph.initializer if uses_external_data(t)})
    ]


def _of_run(folder: Path) -> Subject:
    """A run by the files that it left; what its record tells of their sizes does not count, only that it is true."""
    run = load_run(folder)
    path, packed = folder / "model.onnx", folder / "model.l2z"
    recorded = {artefact.path for artefact in run.artefacts}
    ships_packed = any(artefact.kind == "l2z" for artefact in run.artefacts)
    for file in (path, packed) if ships_packed else (path,):
        if not file.is_file() or file.name not in recorded:
            raise CompressError(
                f"{folder}: its {file.name} is missing or is not the one that run.json tells of; run the recipe again"
            )
    if not ships_packed:
        return Subject(folder, run.name, path, _bytes(path, *_beside(path)), run)
    with as_onnx(packed) as unpacked:
        if sha256_file(unpacked) != sha256_file(path):
            raise CompressError(f"{packed}: does not unpack to {path}; run the recipe again")
    return Subject(folder, run.name, path, _bytes(packed), run)


def freeze(sides: Sequence[Subject], device: Device, feeds: Feeds, folder: Path) -> list[Frozen]:
    """The engines of the sides for the device, built once: those that their runs left if all have one, else built now.

    An engine that a run built and one that is built now may differ by more than the models do.
    """
    left = [_engine_of_run(side, device) for side in sides]
    if all(path is not None for path in left):
        return [device.adopt(path) for path in left if path is not None]
    place = folder / folder_name(device.label)
    return [_built(side, device, feeds, place / str(index)) for index, side in enumerate(sides)]


def _built(side: Subject, device: Device, feeds: Feeds, place: Path) -> Frozen:
    if side.onnx is None:
        return device.adopt(side.path)
    return device.build(side.onnx, place, feeds)


def _engine_of_run(side: Subject, device: Device) -> Path | None:
    """The first file of the compressed engine, if the side's run ran one on this device and it is still the same."""
    if side.run is None or not isinstance(device, LocalDevice) or TARGETS[device.runtime].bakes_in_batch:
        return None
    own = (device.runtime, device.options.device)
    if not any((t.runtime, t.device) == own and t.status == "run" for t in side.run.targets):
        return None
    start = f"engines/{'-'.join(part for part in own if part)}/compressed/"
    files = [artefact for artefact in side.run.artefacts if artefact.path.startswith(start)]
    paths = [side.path / file.path for file in files]
    same = all(p.is_file() and sha256_file(p) == f.sha256 for p, f in zip(paths, files, strict=True))
    return paths[0] if paths and same else None


@dataclass(frozen=True)
class Inputs:
    """What both sides are fed. batch: what a varying batch is fixed to, 0 where the graphs fix it themselves."""

    feeds: Feeds
    batch: int


def common_inputs(sides: Sequence[Subject], file: Path | None, batch: int, seed: int) -> Inputs:
    """Inputs from an .npz file, or seeded ones of the graphs' shapes; CompressError when they do not fit both sides."""
    graphs = {side.path: read_graph(side.onnx) for side in sides if side.onnx is not None}
    given = _read_inputs(file) if file is not None else None
    if given is not None and not batch:
        batch = len(next(iter(given.values()))) if next(iter(given.values())).ndim else 0
    if not graphs:
        if given is None:
            raise CompressError(
                f"{sides[0].path}: an engine file does not tell its inputs; give them by --inputs x.npz"
            )
        return Inputs(given, batch)
    made = {path: _inputs_of(graph, batch if _varies(graph) else 0, seed) for path, graph in graphs.items()}
    (first, one), *others = made.items()
    if given is not None:
        others.append((Path(str(file)), Inputs(given, 0)))
    for path, other in others:
        if _words(other.feeds) != _words(one.feeds):
            raise CompressError(
                f"{path}: the inputs {_words(other.feeds)}, and {first} takes {_words(one.feeds)}; "
                "gate models of one interface"
            )
    fixed = one.feeds if given is None else {name: given[name] for name in one.feeds}
    return Inputs(fixed, max(inputs.batch for inputs in made.values()))


def _varies(graph: onnx.ModelProto) -> bool:
    return batch_of(graph, 0)[1]


def _inputs_of(graph: onnx.ModelProto, batch: int, seed: int) -> Inputs:
    fed, varies = batch_of(graph, batch)
    return Inputs(random_feeds(graph, fed, seed), fed if varies else 0)


def _words(feeds: Feeds) -> str:
    return ", ".join(
        f"{name} {feeds[name].dtype} {' x '.join(map(str, feeds[name].shape))}" for name in sorted(feeds)
    )


def _read_inputs(path: Path) -> Feeds:
    try:
        with np.load(path, allow_pickle=False) as file:
            feeds = {name: np.asarray(file[name]) for name in file.files}
    except (OSError, ValueError, AttributeError, TypeError, EOFError, BadZipFile) as error:
        raise CompressError(f"{path}: cannot be read as an .npz file of inputs by name ({error})") from error
    if not feeds:
        raise CompressError(f"{path}: holds no arrays; save the inputs by name with numpy.savez")
    if wrong := [n for n, x in feeds.items() if x.dtype.kind == "f" and not np.isfinite(x).all()]:
        raise CompressError(f"{path}: input {wrong[0]!r} holds NaN or infinite values")
    return feeds
