"""The process of one launch: `python -m edgepress.targets.measuring.worker`, JSON lines on stdin and stdout.

With `--paced` it says when it is ready, times as many inferences as each further line asks for, and tells the result
when its stdin ends: so launches take turns.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from itertools import count
from statistics import median
from time import perf_counter_ns
from typing import Any

from ...errors import CompressError
from ..base import Engine, Feeds, Mode, TargetOptions
from .digests import files_digest, outputs_digest
from .feeds import read_feeds, whole_walks
from .launch import PACED, LaunchResult, LaunchSpec, spec_of
from .machine import energy_between, energy_joules, gpu_of, machine_state, peak_bytes, resident_bytes

WINDOW = 10
WINDOWS = 3
AGREEMENT = 0.01
SHORT_NS = 50_000
GROUP_NS = 200_000
"""Inferences below SHORT_NS are timed in groups of about GROUP_NS, or the clock would weigh in."""
SETTLING, SETTLING_NS = 2, 5_000_000
"""Inferences after another process's turn that are not counted: at least so many, and for so long."""
FLOOD = 8
FLOOD_NS = 50_000_000
"""Time that a sample takes in throughput mode, about: a flood of at least FLOOD inferences."""


class Measurement:
    """One launch as it goes on: loaded and warm once it is made, then timed in one go or block by block."""

    def __init__(self, spec: LaunchSpec) -> None:
        """Load, first inference, warm-up."""
        from .. import TARGETS

        if spec.target not in TARGETS:
            raise CompressError(f"target {spec.target!r} is unknown; known: {', '.join(sorted(TARGETS))}")
        self._gpu = gpu_of(spec.target, spec.options.device)
        feeds = read_feeds(spec.feeds)
        self._other_inputs = sum(array.nbytes for other in feeds[1:] for array in other.values())
        self._started = datetime.now(UTC).isoformat(timespec="seconds")
        target = TARGETS[spec.target]
        target.version()  # imports the library, which is no part of loading an engine
        self._empty = resident_bytes()
        begin = perf_counter_ns()
        self._engine = target.load(spec.path, spec.options)
        self._load_ms = (perf_counter_ns() - begin) / 1e6
        begin = perf_counter_ns()
        self._outputs = self._engine.run(feeds[0])
        self._first_ms = (perf_counter_ns() - begin) / 1e6
        told = (
            {}
            if spec.options.copies or spec.options.mode == "throughput"
            else {"timed_region": "synchronous, copies not timed"}
        )
        self._settings = {str(key): str(value) for key, value in {**self._engine.settings, **told}.items()}
        self._timer = _timer(self._engine, feeds, spec.options)
        begin = perf_counter_ns()
        window = whole_walks(WINDOW, len(feeds))
        self._warmup, self._warmed_up = _warm_up(self._timer, spec.warmup_s, window)
        self._warmup_s = (perf_counter_ns() - begin) / 1e9
        self._calls = _calls_per_sample(median(self._warmup[-window:]), spec.options.mode)
        self._samples: list[int] = []
        self._before = machine_state(self._gpu)
        self._used: list[float | None] = []

    def run(self, iterations: int, seconds: float = 0.0) -> None:
        """So many samples, and more until so much time has passed."""
        wanted = len(self._samples) + iterations
        before = energy_joules(self._gpu)
        end = perf_counter_ns() + seconds * 1e9
        while len(self._samples) < wanted or perf_counter_ns() < end:
            self._samples.append(round(self._timer(len(self._samples), self._calls)))
        self._used.append(energy_between(before, energy_joules(self._gpu)))

    def settle(self) -> None:
        """Some inferences that are not counted: caches were another process's, and its threads may still spin."""
        end = perf_counter_ns() + SETTLING_NS
        for number in count():
            if number >= SETTLING and perf_counter_ns() > end:
                return
            self._timer(len(self._samples) + number, self._calls)

    def result(self) -> LaunchResult:
        """What was measured. Energy is that of the machine in this launch's own turns."""
        known = [used for used in self._used if used is not None]
        used = sum(known) if known and len(known) == len(self._used) else None
        peak = peak_bytes()
        own_peak = None if peak is None else max(0, peak - self._other_inputs)  # held since before the engine
        return LaunchResult(
            load_ms=self._load_ms,
            first_inference_ms=self._first_ms,
            warmup_iterations=len(self._warmup),
            warmup_s=self._warmup_s,
            warmed_up=self._warmed_up,
            calls_per_sample=self._calls,
            samples_ns=tuple(self._samples),
            settings=self._settings,
            started_at=self._started,
            before=self._before,
            after=machine_state(self._gpu),
            engine_sha256=files_digest(artefact.path for artefact in self._engine.artefacts),
            outputs_sha256=outputs_digest(self._outputs),
            peak_bytes=own_peak,
            engine_memory_bytes=None if peak is None or self._empty is None else peak - self._empty,
            joules=None if used is None else used / (len(self._samples) * self._calls),
        )


Timer = Callable[[int, int], float]
"""Nanoseconds of one inference of a sample, by its number: the mean of so many calls, all on this sample's input."""


def _timer(engine: Engine, feeds: Sequence[Feeds], options: TargetOptions) -> Timer:
    inference = _inferences(engine, feeds, options)

    def one_by_one(number: int, calls: int) -> float:
        infer = inference(number % len(feeds))
        begin = perf_counter_ns()
        for _ in range(calls):
            infer()
        return (perf_counter_ns() - begin) / calls

    def at_once(number: int, calls: int) -> float:
        fed = feeds[number % len(feeds)]
        begin = perf_counter_ns()
        engine.run_many(fed, calls)
        return (perf_counter_ns() - begin) / calls

    return at_once if options.mode == "throughput" else one_by_one


def _inferences(
    engine: Engine, feeds: Sequence[Feeds], options: TargetOptions
) -> Callable[[int], Callable[[], object]]:
    """The inference on each input; without copies it is put in place when it is asked for, which is not timed."""
    if options.copies or options.mode == "throughput":
        return [partial(engine.run, fed) for fed in feeds].__getitem__
    if len(feeds) == 1:
        return [engine.prepared(feeds[0])].__getitem__
    return lambda number: engine.prepared(feeds[number])


def _calls_per_sample(typical_ns: float, mode: Mode) -> int:
    if mode == "throughput":
        return max(FLOOD, math.ceil(FLOOD_NS / max(typical_ns, 1)))
    return math.ceil(GROUP_NS / max(typical_ns, 1)) if typical_ns < SHORT_NS else 1


def _warm_up(timer: Timer, limit_s: float, window: int) -> tuple[list[float], bool]:
    """Run until the last three windows' medians agree within 1 %, or `limit_s` is over."""
    times: list[float] = []
    end = perf_counter_ns() + limit_s * 1e9
    while len(times) < WINDOW or perf_counter_ns() < end:
        times.append(timer(len(times), 1))
        if steady(times, window):
            return times, True
    return times, False


def steady(times: list[float], window: int = WINDOW) -> bool:
    """Whether the medians of the last three full windows lie within 1 % of each other.

    window: inferences in one, such that each window is of the same inputs.
    """
    if len(times) < window * WINDOWS or len(times) % window:
        return False
    last = times[-window * WINDOWS :]
    medians = [median(last[i : i + window]) for i in range(0, len(last), window)]
    return max(medians) <= min(medians) * (1 + AGREEMENT)


def _main() -> int:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a vendor library prints must not get into the answers

    def tell(value: Any) -> None:
        print(json.dumps(value), file=answers, flush=True)

    try:
        spec = spec_of(json.loads(sys.stdin.readline()))
        measurement = Measurement(spec)
        if PACED in sys.argv:
            tell("ready")
            for line in sys.stdin:
                measurement.settle()
                measurement.run(json.loads(line))
                tell("done")
        else:
            measurement.run(spec.samples, spec.seconds)
        tell(asdict(measurement.result()))
    except CompressError as error:
        print(error, file=sys.stderr)
        return int(error.exit_code)
    return 0


if __name__ == "__main__":
    sys.exit(_main())
