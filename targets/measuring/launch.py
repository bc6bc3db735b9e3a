"""One launch of one engine in a process of its own (`worker`): what it is asked, and what it measured.

The process launch, not the iteration, is the unit of replication when two engines are compared.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, replace
from math import log
from pathlib import Path
from statistics import median
from typing import Any, Self

from ...errors import CompressError
from ...isolated import Limits, Watch, ending
from ..base import TargetOptions
from .feeds import whole_walks
from .machine import MachineState

NOTHING_KNOWN = MachineState()
PACED = "--paced"
MAX_NS = 10**15
BLOCK = 10
"""Inferences in a turn of a launch that is measured beside another one."""


@dataclass(frozen=True)
class LaunchSpec:
    """What a worker is asked to do. path: the file that the target's `load` opens; feeds: an .npz file of `save_feeds`.

    iterations: timed samples, or as many more as it takes that each input comes equally often; inputs: how many the
    file holds. seconds: go on beyond that until so long was timed, to see a device get warm.
    """

    target: str
    path: Path
    options: TargetOptions
    feeds: Path
    iterations: int
    warmup_s: float = 5.0
    seconds: float = 0.0
    inputs: int = 1

    @property
    def samples(self) -> int:
        """Samples to time."""
        return whole_walks(self.iterations, self.inputs)


@dataclass(frozen=True)
class LaunchResult:
    """What one launch measured. The timed region is inference; copies in and out as the options say.

    samples_ns: times of one inference in order, each the mean of `calls_per_sample` calls on one input: one after the
        other in latency mode, at once in throughput mode. Sample i is of input i modulo the number of inputs.
    before, after: the machine around the timed part.
    engine_sha256: of all files of the engine, as this process opened them; outputs_sha256: of the first inference's
        outputs.
    peak_bytes: most memory that the process held, inputs beyond the first not counted; engine_memory_bytes: what came
        after the runtime's library was loaded. joules: of one inference, by the machine's own counters. None: this
        machine cannot tell.
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


def launch(spec: LaunchSpec, limits: Limits = Limits()) -> LaunchResult:
    """Measure in a fresh process; CompressError with the end of its error output when it fails.

    limits: seconds are for the whole launch, beyond warm-up and the time that it is asked to go on for.
    """
    with _Worker(spec, replace(limits, seconds=limits.seconds + spec.warmup_s + spec.seconds)) as worker:
        return worker.result()


def launch_turns(
    specs: Sequence[LaunchSpec], order_seed: int, limits: Limits = Limits(seconds=900)
) -> list[LaunchResult]:
    """Measure engines in fresh processes that take turns, BLOCK inferences each, in an order drawn anew each time.

    What disturbs a shared machine lasts for tenths of seconds to minutes: in turns it disturbs all alike, while each
    still is a launch of its own. Sample i of each belongs to the same turn, i // BLOCK, and to the same input. One
    engine alone is a launch.
    limits: of each process; its seconds are those in which it works, its warm-up and others' turns not counted.
    """
    if len(specs) == 1:
        return [launch(specs[0], limits)]
    draw = random.Random(order_seed)
    together = limits.bytes or limits.in_force().bytes // len(specs)  # all are held at once
    with ExitStack() as held:
        workers = [
            held.enter_context(
                _Worker(spec, replace(limits, seconds=limits.seconds + spec.warmup_s, bytes=together), PACED)
            )
            for spec in specs
        ]
        for worker in draw.sample(workers, len(workers)):  # one by one, so that nothing runs beside a warm-up
            worker.start()
        for inferences in _turns(min(specs, key=lambda spec: spec.samples)):
            for worker in draw.sample(workers, len(workers)):
                worker.take_turn(inferences)
        return [worker.result() for worker in workers]


def _turns(spec: LaunchSpec) -> list[int]:
    """Inferences in each turn: whole turns of one input; of several the last one ends with the last input."""
    whole, rest = divmod(spec.samples, BLOCK)
    last = BLOCK if spec.inputs == 1 else rest
    return [BLOCK] * whole + ([last] if rest else [])


def paired_log_ratio(first: LaunchResult, second: LaunchResult) -> float:
    """log of second over first: the median over turns of what the medians of a turn differ by."""
    turns = range(0, min(len(first.samples_ns), len(second.samples_ns)), BLOCK)
    ratios = [
        log(median(second.samples_ns[i : i + BLOCK]) / median(first.samples_ns[i : i + BLOCK])) for i in turns
    ]
    return float(median(ratios))


class _Worker:
    """A process that measures one launch; gone when the `with` ends, and killed when it takes too long.

    Its time runs while it is asked something: other processes' turns are not its own.
    """

    def __init__(self, spec: LaunchSpec, limits: Limits, *mode: str) -> None:
        self._spec = spec
        self._limits = limits.in_force()
        self._mode = mode

    def __enter__(self) -> Self:
        self._errors = tempfile.TemporaryFile("w+", errors="replace")  # closed by __exit__
        # -P: a module in the current folder must not stand in for a runtime of the same name
        command = [sys.executable, "-P", "-m", "edgepress.targets.measuring.worker", *self._mode]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=self._errors, text=True)
        self._watch = Watch(self._process)
        self._watch.begin(self._limits)
        self._watch.pause()
        return self

    def __exit__(self, *_: object) -> None:
        self._watch.close()
        self._process.kill()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            with suppress(BrokenPipeError):
                stream.close()  # type: ignore[union-attr]
        self._process.wait()

    def start(self) -> None:
        """Load and warm up, and wait for the turns."""
        self._ask(_told(self._spec))
        self._answer()

    def take_turn(self, iterations: int) -> None:
        """Time so many inferences now."""
        self._ask(iterations)
        self._answer()

    def result(self) -> LaunchResult:
        """What was measured, once nothing more is asked."""
        if PACED not in self._mode:
            self._ask(_told(self._spec))
        with suppress(BrokenPipeError):
            assert self._process.stdin is not None
            self._process.stdin.close()
        return result_of(self._answer())

    def _ask(self, value: object) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # its end is told by the answer that does not come
            self._process.stdin.write(json.dumps(value) + "\n")
            self._process.stdin.flush()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        self._watch.resume()
        line = self._process.stdout.readline()
        self._watch.pause()
        if line.endswith("\n"):  # else the process ended within it
            return json.loads(line)
        what = f"measuring {self._spec.path.name} on {self._spec.target}"
        code = self._process.wait()
        if self._watch.exceeded:
            raise CompressError(f"{what}: {self._watch.exceeded}; or ask for fewer iterations")
        self._errors.seek(0)
        tail = "\n".join(self._errors.read().strip().splitlines()[-8:]) or "it wrote no error output"
        raise CompressError(f"{what}: the worker process {ending(code)}:\n{tail}")


def result_of(told: dict[str, Any]) -> LaunchResult:
    """A result that came as JSON; ValueError for one that no launch has."""
    from pydantic import TypeAdapter

    samples = told["samples_ns"]
    if not samples or not all(type(ns) is int and 0 < ns < MAX_NS for ns in samples):
        raise ValueError("samples_ns must be whole numbers above 0")
    result: LaunchResult = TypeAdapter(LaunchResult).validate_python(told)
    counts = (result.load_ms, result.first_inference_ms, result.warmup_iterations, result.calls_per_sample)
    if min(*counts, result.peak_bytes or 0, result.engine_memory_bytes or 0, result.joules or 0) < 0:
        raise ValueError("a time or a size below 0")
    return result


def _told(spec: LaunchSpec) -> dict[str, Any]:
    return {**asdict(spec), "path": str(spec.path), "feeds": str(spec.feeds)}


def spec_of(told: dict[str, Any]) -> LaunchSpec:
    """A request that came as JSON."""
    options = {**told["options"], "compute_capabilities": tuple(told["options"]["compute_capabilities"])}
    paths = {key: Path(told[key]) for key in ("path", "feeds")}
    return LaunchSpec(**{**told, **paths, "options": TargetOptions(**options)})
