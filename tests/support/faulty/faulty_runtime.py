"""A runtime that fails as real ones do: onnxruntime, which dies, hangs or fills the memory where FAULT says.

FAULT is `stage:kind`: stage build, load, inference or lint; kind signal, hang or memory.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from edgepress.targets import onnxruntime
from edgepress.targets.base import Engine, Feeds, Lint, TargetOptions
from edgepress.targets.onnxruntime import (
    bakes_in_batch,
    builds_ahead,
    can_build,
    capabilities,
    default_device,
    devices,
    engine_suffix,
    facts,
    files,
    own_float_default,
    packages,
    saturates,
    scheme,
    unavailable,
    version,
)

__all__ = [
    "bakes_in_batch",
    "builds_ahead",
    "can_build",
    "capabilities",
    "default_device",
    "devices",
    "engine_suffix",
    "facts",
    "files",
    "lint",
    "own_float_default",
    "packages",
    "saturates",
    "scheme",
    "unavailable",
    "version",
]

name = "faulty"


def build(onnx_path: Path, options: TargetOptions, folder: Path) -> Engine:
    fault("build")
    return Faulty(onnxruntime.build(onnx_path, options, folder))


def load(path: Path, options: TargetOptions) -> Engine:
    fault("load")
    return Faulty(onnxruntime.load(path, options))


def lint(path: Path) -> list[Lint]:
    fault("lint")
    return onnxruntime.lint(path)


class Faulty:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __getattr__(self, attribute: str) -> Any:
        return getattr(self._engine, attribute)

    def run(self, feeds: Feeds) -> Any:
        fault("inference")
        return self._engine.run(feeds)


def fault(stage: str) -> None:
    """Fail here, when this is where to."""
    wanted, _, kind = os.environ.get("FAULT", "").partition(":")
    if wanted != stage:
        return
    if kind == "signal":
        os.kill(os.getpid(), signal.SIGFPE)
    held = []
    while True:  # what is held is never given back, and what hangs never ends
        if kind == "memory":
            held.append(b"\1" * 2**26)
        else:
            time.sleep(1)
