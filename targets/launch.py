"""One launch of one engine in a process of its own (`worker`): what it is asked, and what it measured.

The process launch, not the iteration, is the unit of replication when two engines are compared.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from ..errors import CompressError
from .base import Feeds, TargetOptions
from .machine import MachineState

NOTHING_KNOWN = MachineState()


@dataclass(frozen=True)
class LaunchSpec:
    """What a worker is asked to do. path: the file that the target's `load` opens; feeds: an .npz file.

    seconds: go on beyond `iterations` samples until so long was timed, to see a device get warm.
    """

    target: str
    path: Path
    options: TargetOptions
    feeds: Path
    iterations: int
    warmup_s: float = 5.0
    seconds: float = 0.0


@dataclass(frozen=True)
class LaunchResult:
    """What one launch measured. The timed region is inference, copies in and out included.

    samples_ns: times of one inference in order, each the mean of `calls_per_sample` calls: one after the other in
        latency mode, at once in throughput mode.
    before, after: the machine around the timed part.
    engine_sha256: of all files of the engine, as this process opened them; outputs_sha256: of the first inference's
        outputs.
    peak_bytes: most memory that the process held; engine_memory_bytes: of it, what came after the runtime's library
        was loaded. joules: of one inference, by the machine's own counters. None: this machine cannot tell.
    """

    load_ms: float
    first_inference_ms: float
    warmup_iterations: int
    warmup_s: float
    warmed_up: bool
    calls_per_sample: int
    samples_ns: tuple[int, ...]
    settings: dict[str, Any]
    started_at: str
    before: MachineState = NOTHING_KNOWN
    after: MachineState = NOTHING_KNOWN
    engine_sha256: str = ""
    outputs_sha256: str = ""
    peak_bytes: int | None = None
    engine_memory_bytes: int | None = None
    joules: float | None = None

    @property
    def median_ns(self) -> float:
        """The launch's median: the one number that comparisons use of it."""
        return float(median(self.samples_ns))


def launch(spec: LaunchSpec, timeout_s: float = 600.0) -> LaunchResult:
    """Measure in a fresh process; CompressError with the end of its error output when it fails."""
    told = {**asdict(spec), "path": str(spec.path), "feeds": str(spec.feeds)}
    what = f"measuring {spec.path.name} on {spec.target}"
    try:
        done = subprocess.run(
            # -P: a module in the current folder must not stand in for a runtime of the same name
            [sys.executable, "-P", "-m", "edgepress.targets.worker"],
            input=json.dumps(told),
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
    except subprocess.TimeoutExpired as error:
        raise CompressError(
            f"{what}: no result within {timeout_s:.0f} s; ask for fewer iterations"
        ) from error
    if done.returncode:
        tail = "\n".join(done.stderr.strip().splitlines()[-8:]) or "it wrote no error output"
        raise CompressError(f"{what}: the worker process ended with {_ending(done.returncode)}:\n{tail}")
    return result_of(json.loads(done.stdout))


def result_of(told: dict[str, Any]) -> LaunchResult:
    """A result that came as JSON."""
    states = {key: MachineState(**told[key]) for key in ("before", "after")}
    return LaunchResult(**{**told, **states, "samples_ns": tuple(told["samples_ns"])})


def spec_of(told: dict[str, Any]) -> LaunchSpec:
    """A request that came as JSON."""
    options = {**told["options"], "compute_capabilities": tuple(told["options"]["compute_capabilities"])}
    paths = {key: Path(told[key]) for key in ("path", "feeds")}
    return LaunchSpec(**{**told, **paths, "options": TargetOptions(**options)})


def _ending(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def save_feeds(feeds: Feeds, folder: Path) -> Path:
    """Write the inputs where workers can read them."""
    handle, name = tempfile.mkstemp(dir=folder, suffix=".npz")
    with os.fdopen(handle, "wb") as file:
        # keyed by position: input names may hold characters that a zip member cannot
        arrays: dict[str, Any] = {f"array_{i}": array for i, array in enumerate(feeds.values())}
        np.savez(file, names=np.array(list(feeds)), **arrays)
    return Path(name)


def read_feeds(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """What `save_feeds` wrote."""
    with np.load(path, allow_pickle=False) as file:
        return {str(name): file[f"array_{i}"] for i, name in enumerate(file["names"])}
