"""One launch of one engine in its own process: `python -m edgepress.targets.launch`.

Spec on stdin, result on stdout, both JSON. The process launch, not the iteration, is the unit of
replication when two engines are compared.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from time import perf_counter_ns
from typing import Any

import numpy as np

from ..errors import CompressError
from .base import Feeds, TargetOptions

WINDOW = 10
WINDOWS = 3
AGREEMENT = 0.01
SHORT_NS = 50_000
GROUP_NS = 200_000
"""Inferences below SHORT_NS are timed in groups of about GROUP_NS, or the clock would weigh in."""


@dataclass(frozen=True)
class LaunchSpec:
    """What a worker is asked to do. path: the file that the target's `load` opens; feeds: an .npz file."""

    target: str
    path: Path
    options: TargetOptions
    feeds: Path
    iterations: int
    warmup_s: float = 5.0


@dataclass(frozen=True)
class LaunchResult:
    """What one launch measured. The timed region is one synchronous inference, copies in and out included.

    samples_ns: times of one inference in order, each the mean of `calls_per_sample` calls.
    load_average: the machine's 1-minute load before and after.
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
    load_average: tuple[float, float]

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
            [sys.executable, "-P", "-m", "edgepress.targets.launch"],
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
    result = json.loads(done.stdout)
    result["samples_ns"] = tuple(result["samples_ns"])
    result["load_average"] = tuple(result["load_average"])
    return LaunchResult(**result)


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


def measure(spec: LaunchSpec) -> LaunchResult:
    """Load, first inference, warm-up and timed iterations, in this process."""
    from . import TARGETS

    if spec.target not in TARGETS:
        raise CompressError(f"target {spec.target!r} is unknown; known: {', '.join(sorted(TARGETS))}")
    feeds = read_feeds(spec.feeds)
    started, load = datetime.now(UTC).isoformat(timespec="seconds"), _load_average()
    target = TARGETS[spec.target]
    target.version()  # imports the library, which is no part of loading an engine
    begin = perf_counter_ns()
    engine = target.load(spec.path, spec.options)
    load_ms = (perf_counter_ns() - begin) / 1e6

    def infer() -> None:
        engine.run(feeds)

    first_ms = _timed(infer, 1) / 1e6
    begin = perf_counter_ns()
    warmup, warmed_up = _warm_up(infer, spec.warmup_s)
    warmup_s = (perf_counter_ns() - begin) / 1e9
    typical = median(warmup[-WINDOW:])
    calls = math.ceil(GROUP_NS / max(typical, 1)) if typical < SHORT_NS else 1
    samples = tuple(round(_timed(infer, calls)) for _ in range(spec.iterations))
    return LaunchResult(
        load_ms=load_ms,
        first_inference_ms=first_ms,
        warmup_iterations=len(warmup),
        warmup_s=warmup_s,
        warmed_up=warmed_up,
        calls_per_sample=calls,
        samples_ns=samples,
        settings={str(key): str(value) for key, value in engine.settings.items()},
        started_at=started,
        load_average=(load, _load_average()),
    )


def _timed(infer: Callable[[], None], calls: int) -> float:
    """Nanoseconds of one call, the mean of `calls`."""
    begin = perf_counter_ns()
    for _ in range(calls):
        infer()
    return (perf_counter_ns() - begin) / calls


def _warm_up(infer: Callable[[], None], limit_s: float) -> tuple[list[float], bool]:
    """Run until the last three windows' medians agree within 1 %, or `limit_s` is over."""
    times: list[float] = []
    end = perf_counter_ns() + limit_s * 1e9
    while len(times) < WINDOW or perf_counter_ns() < end:
        times.append(_timed(infer, 1))
        if steady(times):
            return times, True
    return times, False


def steady(times: list[float]) -> bool:
    """Whether the medians of the last three full windows lie within 1 % of each other."""
    if len(times) < WINDOW * WINDOWS or len(times) % WINDOW:
        return False
    last = times[-WINDOW * WINDOWS :]
    medians = [median(last[i : i + WINDOW]) for i in range(0, len(last), WINDOW)]
    return max(medians) <= min(medians) * (1 + AGREEMENT)


def _load_average() -> float:
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else math.nan


def _main() -> int:
    result_stream = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a vendor library prints must not get into the result
    told = json.load(sys.stdin)
    options = TargetOptions(
        **{**told["options"], "compute_capabilities": tuple(told["options"]["compute_capabilities"])}
    )
    spec = LaunchSpec(
        **{**told, "path": Path(told["path"]), "feeds": Path(told["feeds"]), "options": options}
    )
    try:
        result = measure(spec)
    except CompressError as error:
        print(error, file=sys.stderr)
        return int(error.exit_code)
    with result_stream:
        json.dump(asdict(result), result_stream)
    return 0


if __name__ == "__main__":
    sys.exit(_main())
