"""What is compared: a run folder, an ONNX or .l2z file, or an engine file; and the same inputs for both."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...errors import CompressError
from ...targets.device import Device, Frozen, LocalDevice
from ..files import sha256_file
from ..l2z.pack import as_onnx
from ..onnx_file import read_graph
from ..random_inputs import Feeds, batch_of, random_feeds
from ..report import load_run
from ..result import RunRecord

if TYPE_CHECKING:
    import onnx

ENGINES = (".xml", ".engine")


@dataclass(frozen=True)
class Subject:
    """One side. path: what the user named; onnx: its graph, None for an engine file; file: what is shipped."""

    path: Path
    onnx: Path | None
    file: Path
    run: RunRecord | None = None

    @property
    def bytes(self) -> int:
        """Of the file that is shipped; of all files of an engine."""
        parts = [self.file]
        if self.file.suffix == ".xml":
            parts.append(self.file.with_suffix(".bin"))
        return sum(part.stat().st_size for part in parts)


@contextmanager
def subject(path: Path) -> Iterator[Subject]:
    """Open what the user named; CompressError when it is nothing that can be measured."""
    if path.is_dir() or path.name == "run.json":
        yield _of_run(path if path.is_dir() else path.parent)
    elif not path.is_file():
        raise CompressError(
            f"{path}: no such file or folder; give a run folder, an .onnx, .l2z or engine file"
        )
    elif path.suffix in ENGINES:
        yield Subject(path, None, path)
    else:
        with as_onnx(path) as graph:
            yield Subject(path, graph, path)


def _of_run(folder: Path) -> Subject:
    run = load_run(folder)
    onnx_path = folder / "model.onnx"
    recorded = {artefact.path: artefact.sha256 for artefact in run.artefacts}
    if not onnx_path.is_file() or recorded.get("model.onnx") != sha256_file(onnx_path):
        raise CompressError(
            f"{folder}: its model.onnx is missing or is not the one that run.json tells of; run the recipe again"
        )
    packed = folder / "model.l2z"
    return Subject(folder, onnx_path, packed if packed.is_file() else onnx_path, run)


def freeze(side: Subject, device: Device, feeds: Feeds, folder: Path) -> Frozen:
    """The side's engine for the device: the one that its run left, the file itself, or one built now, once."""
    if side.run is not None and isinstance(device, LocalDevice):
        left = _engine_of_run(side.path, side.run, device)
        if left is not None:
            return device.adopt(left)
    if side.onnx is None:
        return device.adopt(side.file)
    return device.build(side.onnx, folder, feeds)


def _engine_of_run(folder: Path, run: RunRecord, device: Device) -> Path | None:
    """The first file of the compressed engine, if the run has one for this device and it is still the same."""
    name = "-".join(part for part in (device.runtime, device.options.device) if part)
    start = f"engines/{name}/compressed/"
    files = [artefact for artefact in run.artefacts if artefact.path.startswith(start)]
    if not files or any(
        not (folder / f.path).is_file() or sha256_file(folder / f.path) != f.sha256 for f in files
    ):
        return None
    return folder / files[0].path


@dataclass(frozen=True)
class Inputs:
    """What both sides are fed. batch: what a varying batch is fixed to, 0 where the graphs fix it themselves."""

    feeds: Feeds
    batch: int


def common_inputs(sides: Sequence[Subject], file: Path | None, batch: int, seed: int) -> Inputs:
    """Inputs from an .npz file, or seeded ones of the graphs' shapes; CompressError when the two take other inputs."""
    graphs = {side.path: read_graph(side.onnx) for side in sides if side.onnx is not None}
    if file is not None:
        return Inputs(_read_inputs(file), batch)
    if not graphs:
        raise CompressError(
            f"{sides[0].path}: an engine file does not tell its inputs; give them by --inputs x.npz"
        )
    made = {path: _inputs_of(graph, batch, seed) for path, graph in graphs.items()}
    shapes = {
        path: {name: array.shape for name, array in inputs.feeds.items()} for path, inputs in made.items()
    }
    (first, wanted), *others = shapes.items()
    for path, found in others:
        if found != wanted:
            raise CompressError(
                f"{path} takes the inputs {_words(found)}, and {first} {_words(wanted)}; gate models of one interface"
            )
    return next(iter(made.values()))


def _inputs_of(graph: onnx.ModelProto, batch: int, seed: int) -> Inputs:
    fed, varies = batch_of(graph, batch)
    return Inputs(random_feeds(graph, fed, seed), fed if varies else 0)


def _words(shapes: dict[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {' x '.join(map(str, shape))}" for name, shape in shapes.items())


def _read_inputs(path: Path) -> Feeds:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, AttributeError) as error:
        raise CompressError(f"{path}: cannot be read as an .npz file of inputs by name: {error}") from error
