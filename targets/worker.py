"""The process of one launch: `python -m edgepress.targets.worker`, spec on stdin, result on stdout, both JSON."""

from __future__ import annotations

import hashlib
import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from time import perf_counter_ns
from typing import Any

import numpy as np

from ..errors import CompressError
from .base import Engine, Feeds, Mode
from .launch import LaunchResult, LaunchSpec, read_feeds, spec_of
from .machine import energy_between, energy_joules, machine_state, peak_bytes, resident_bytes

WINDOW = 10
WINDOWS = 3
AGREEMENT = 0.01
SHORT_NS = 50_000
GROUP_NS = 200_000
"""Inferences below SHORT_NS are timed in groups of about GROUP_NS, or the clock would weigh in."""
FLOOD = 8
FLOOD_NS = 50_000_000
"""In throughput mode a sample is a flood of at least FLOOD inferences and about FLOOD_NS."""


def measure(spec: LaunchSpec) -> LaunchResult:
    """Load, first inference, warm-up and timed iterations, in this process."""
    from . import TARGETS

    if spec.target not in TARGETS:
        raise CompressError(f"target {spec.target!r} is unknown; known: {', '.join(sorted(TARGETS))}")
    feeds = read_feeds(spec.feeds)
    started = datetime.now(UTC).isoformat(timespec="seconds")
    target = TARGETS[spec.target]
    target.version()  # imports the library, which is no part of loading an engine
    empty = resident_bytes()
    begin = perf_counter_ns()
    engine = target.load(spec.path, spec.options)
    load_ms = (perf_counter_ns() - begin) / 1e6
    begin = perf_counter_ns()
    outputs = engine.run(feeds)
    first_ms = (perf_counter_ns() - begin) / 1e6
    timer = _timer(engine, feeds, spec.options.mode)
    begin = perf_counter_ns()
    warmup, warmed_up = _warm_up(timer, spec.warmup_s)
    warmup_s = (perf_counter_ns() - begin) / 1e9
    calls = _calls_per_sample(median(warmup[-WINDOW:]), spec.options.mode)
    gpu = spec.options.device
    before, energy = machine_state(gpu), energy_joules(gpu)
    samples = _samples(timer, calls, spec)
    used, peak = energy_between(energy, energy_joules(gpu)), peak_bytes()
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
        before=before,
        after=machine_state(gpu),
        engine_sha256=files_digest(artefact.path for artefact in engine.artefacts),
        outputs_sha256=outputs_digest(outputs),
        peak_bytes=peak,
        engine_memory_bytes=None if peak is None or empty is None else peak - empty,
        joules=None if used is None else used / (len(samples) * calls),
    )


def files_digest(paths: Iterable[Path]) -> str:
    """SHA-256 of an engine: of its files' digests, one a line."""
    lines = []
    for path in paths:
        with path.open("rb") as file:
            lines.append(hashlib.file_digest(file, "sha256").hexdigest())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def outputs_digest(outputs: Sequence[np.ndarray[Any, Any]]) -> str:
    """SHA-256 of arrays, bit for bit, with their types and shapes."""
    digest = hashlib.sha256()
    for array in outputs:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


Timer = Callable[[int], float]
"""Nanoseconds of one inference, the mean of so many."""


def _timer(engine: Engine, feeds: Feeds, mode: Mode) -> Timer:
    def one_by_one(calls: int) -> float:
        begin = perf_counter_ns()
        for _ in range(calls):
            engine.run(feeds)
        return (perf_counter_ns() - begin) / calls

    def at_once(calls: int) -> float:
        begin = perf_counter_ns()
        engine.run_many(feeds, calls)
        return (perf_counter_ns() - begin) / calls

    return at_once if mode == "throughput" else one_by_one


def _calls_per_sample(typical_ns: float, mode: Mode) -> int:
    if mode == "throughput":
        return max(FLOOD, math.ceil(FLOOD_NS / max(typical_ns, 1)))
    return math.ceil(GROUP_NS / max(typical_ns, 1)) if typical_ns < SHORT_NS else 1


def _samples(timer: Timer, calls: int, spec: LaunchSpec) -> tuple[int, ...]:
    samples: list[int] = []
    end = perf_counter_ns() + spec.seconds * 1e9
    while len(samples) < spec.iterations or perf_counter_ns() < end:
        samples.append(round(timer(calls)))
    return tuple(samples)


def _warm_up(timer: Timer, limit_s: float) -> tuple[list[float], bool]:
    """Run until the last three windows' medians agree within 1 %, or `limit_s` is over."""
    times: list[float] = []
    end = perf_counter_ns() + limit_s * 1e9
    while len(times) < WINDOW or perf_counter_ns() < end:
        times.append(timer(1))
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


def _main() -> int:
    result_stream = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a vendor library prints must not get into the result
    spec = spec_of(json.load(sys.stdin))
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
