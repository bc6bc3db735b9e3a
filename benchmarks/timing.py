"""Engine files of one runtime on this machine, timed against each other: in turns, or within one process."""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from edgepress.progress import Progress, Silent
from edgepress.targets import TARGETS
from edgepress.targets.base import Feeds, TargetOptions
from edgepress.targets.measuring.device import LocalDevice
from edgepress.targets.measuring.feeds import FeedSequence
from edgepress.targets.measuring.latency import LaunchSamples
from edgepress.targets.measuring.turns import LaunchPlan, measure_rounds


@dataclass(frozen=True)
class Contender:
    """One engine to time. label: how results name it; path: the file that the target's `load` opens."""

    label: str
    target: str
    path: Path
    options: TargetOptions


def measure_in_turns(
    contenders: Sequence[Contender],
    sequence: FeedSequence,
    pairs: int,
    iterations: int,
    seed: int,
    progress: Progress = Silent(),
    warmup_s: float = 5.0,
) -> list[LaunchSamples]:
    """Launch all contenders, of one target, `pairs` rounds in which they take turns, as a run does."""
    with tempfile.TemporaryDirectory() as folder:
        device = LocalDevice("here", contenders[0].target, contenders[0].options, Path(folder))
        engines = {c.label: replace(device.adopt(c.path), options=c.options) for c in contenders}
        return measure_rounds(
            device, engines, sequence, pairs, LaunchPlan(iterations, warmup_s, seed), progress
        )


def measure_side_by_side(
    contenders: Sequence[Contender],
    feeds: Feeds,
    rounds: int = 12,
    iterations: int = 150,
    seed: int = 0,
    progress: Progress = Silent(),
) -> dict[str, list[float]]:
    """Medians in ns of each contender, one for each round: all are loaded anew in this process and run in turns.

    Where launches differ by a tenth or more (memory, clock, neighbours), what is measured within milliseconds of each
    other does not: ratios are many times tighter. As times they are worth less, for the engines share the caches.
    """
    draw = random.Random(seed)
    medians: dict[str, list[float]] = {c.label: [] for c in contenders}
    for _ in progress.track(range(rounds), "timing side by side", rounds):
        engines = {c.label: TARGETS[c.target].load(c.path, c.options) for c in contenders}
        samples: dict[str, list[int]] = {label: [] for label in engines}
        for _ in range(iterations):
            for label in draw.sample(list(engines), len(engines)):
                start = time.perf_counter_ns()
                engines[label].run(feeds)
                samples[label].append(time.perf_counter_ns() - start)
        for label, taken in samples.items():
            medians[label].append(median(taken[iterations // 5 :]))
    return medians
