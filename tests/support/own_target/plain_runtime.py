"""Target `plain`: a runtime of a user's own, as CONTRIBUTING describes it: onnx's reference evaluator in NumPy.

An engine is two files, the graph without its large constants and the constants, so that whoever moves one moves both.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from edgepress.calibration.scheme import QuantScheme
from edgepress.errors import CompressError
from edgepress.targets.base import Artefact, Engine, Feeds, Lint, TargetOptions, require_feeds
from edgepress.targets.graphs.macs import node_macs
from edgepress.targets.graphs.onnx_graph import load_onnx
from edgepress.targets.layer import Layer
from onnx.reference import ReferenceEvaluator

name = "plain"
scheme = QuantScheme()
saturates = False
own_float_default = False
builds_ahead = False
bakes_in_batch = False
default_device = "numpy"
engine_suffix = ".plain"
packages = ("onnx",)


def version() -> str | None:
    return onnx.__version__


def devices() -> list[str]:
    return [default_device]


def unavailable(device: str) -> str | None:
    return None if device in ("", default_device) else f"plain has no device {device!r}"


def facts(device: str) -> dict[str, str]:
    return {"name": "NumPy"}


def can_build() -> str | None:
    return None


def capabilities() -> list[str]:
    return []


def build(onnx_path: Path, options: TargetOptions, folder: Path) -> Engine:
    path = folder / f"model{engine_suffix}"
    folder.mkdir(parents=True, exist_ok=True)
    model, constants = load_onnx(onnx_path), _constants(path).name
    _constants(path).unlink(missing_ok=True)
    onnx.save(model, str(path), save_as_external_data=True, location=constants, size_threshold=0)
    return Plain(path)


def load(path: Path, options: TargetOptions) -> Engine:
    return Plain(path)


def files(path: Path) -> list[Path]:
    return [path, _constants(path)]


def _constants(path: Path) -> Path:
    return path.with_suffix(".constants")


def lint(onnx_path: Path) -> list[Lint]:
    nodes = load_onnx(onnx_path).graph.node
    return [Lint(n.name, "float", "computed in float", "none") for n in nodes if n.op_type == "Conv"]


class Plain:
    def __init__(self, path: Path) -> None:
        if missing := [p.name for p in files(path) if not p.is_file()]:
            raise CompressError(f"{path}: {missing[0]} is not beside it")
        self._model = onnx.load(str(path))
        self._evaluator = ReferenceEvaluator(self._model)
        self.settings: dict[str, Any] = {"threads": 1}
        self.artefacts = tuple(Artefact(p, f"plain{p.suffix}") for p in files(path))

    def run(self, feeds: Feeds) -> list[np.ndarray[Any, Any]]:
        ready = require_feeds(feeds, [value.name for value in self._model.graph.input])
        return list(self._evaluator.run(None, ready))

    def prepared(self, feeds: Feeds) -> Callable[[], object]:
        return partial(self.run, feeds)

    def run_many(self, feeds: Feeds, count: int) -> None:
        for _ in range(count):
            self.run(feeds)

    def layers(self, feeds: Feeds, iterations: int) -> list[Layer]:
        """The graph as one layer, which multiplies in float."""
        started = time.perf_counter()
        for _ in range(iterations):
            self.run(feeds)
        ms = (time.perf_counter() - started) / iterations * 1e3
        macs = node_macs(self._model)
        return [
            Layer(
                name="graph",
                type="graph",
                precision="f32",
                ms=ms,
                macs=sum(m or 0 for m in macs.values()),
                onnx_nodes=tuple(macs),
            )
        ]
