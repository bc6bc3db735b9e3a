"""The speed-up that `compress run` reports beside the ratio that `compress gate` finds, of the same two engines.

\b
    compress demo -o runs/demo
    python benchmarks/run_and_gate.py runs/demo [--times 10]

In turns with each other, so often: a run's way of timing (all engines of a target in turns, rounds of launches), the
gate's (pairs of launches on a device), and separate launches interleaved, as runs once did. Exit code 1 when the
intervals of the run's and the gate's mean do not meet, or the run's ratios scatter more than one and a half times as
much as the gate's.
"""

from __future__ import annotations

import random
import sys
import tempfile
from math import exp, log
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import click
from reporting import environment, markdown_table, provenance, write

PACKAGES = ("edgepress", "openvino", "onnxruntime")
WAYS = ("run", "gate", "separate launches")
MOST_SCATTER = 1.5  # of ten each, chance alone makes one half as large again


@click.command(help=__doc__)
@click.argument("run", type=click.Path(path_type=Path, exists=True))
@click.option("--times", default=10, show_default=True, type=click.IntRange(min=3))
@click.option(
    "--pairs", default=4, show_default=True, type=click.IntRange(min=2), help="Launches of each engine."
)
@click.option("--iterations", default=60, show_default=True, type=click.IntRange(min=11))
@click.option("--warmup", default=0.5, show_default=True, help="Longest warm-up of a launch, in seconds.")
@click.option("--runtime", default="openvino", show_default=True)
def main(run: Path, times: int, pairs: int, iterations: int, warmup: float, runtime: str) -> None:
    """Measure, write the table, and fail when the two ways disagree."""
    from edgepress.calibration.statistics import geometric_mean

    told = environment(PACKAGES)
    with tempfile.TemporaryDirectory() as folder:
        found = _ratios(run, Path(folder), runtime, times, pairs, iterations, warmup)
    rows, intervals = [], {}
    for way in WAYS:
        centre, intervals[way] = geometric_mean(found[way])
        bounds = f"{intervals[way][0]:.3f}–{intervals[way][1]:.3f}"
        rows.append([way, f"{centre:.3f}", bounds, f"{100 * stdev(map(log, found[way])):.2f} %"])
    table = markdown_table(["way", "ratio", "95 % interval of the mean", "scatter"], rows)
    paths = write("run_and_gate", {"environment": told, "ratios": found}, provenance(told) + "\n" + table)
    print(table, "written:", *paths)
    (low, high), (other_low, other_high) = intervals["run"], intervals["gate"]
    scatter = {way: stdev(map(log, found[way])) for way in WAYS}
    sys.exit(
        not (low <= other_high and other_low <= high and scatter["run"] <= MOST_SCATTER * scatter["gate"])
    )


def _ratios(
    run: Path, folder: Path, runtime: str, times: int, pairs: int, iterations: int, warmup: float
) -> dict[str, list[float]]:
    """Float time over compressed time, by way."""
    from edgepress.pipeline.devices.feeds import random_sequence
    from edgepress.pipeline.onnx_files.file import read_graph
    from edgepress.progress import for_stream
    from edgepress.targets import TARGETS
    from edgepress.targets.base import TargetOptions
    from edgepress.targets.measuring.device import LocalDevice
    from edgepress.targets.measuring.latency import of, speedup_in_turns
    from edgepress.targets.measuring.launch import paired_log_ratio
    from timing import Contender, measure_in_turns

    options = TargetOptions(batch=1)
    fed = random_sequence(read_graph(run / "float.onnx"), 1, 0)
    paths = {
        name: TARGETS[runtime].build(run / f"{name}.onnx", options, folder / name).artefacts[0].path
        for name in ("float", "model")
    }
    contenders = [Contender(name, runtime, path, options) for name, path in paths.items()]
    device = LocalDevice(runtime, runtime, options, folder)
    before, after = (device.adopt(path) for path in paths.values())
    found: dict[str, list[float]] = {way: [] for way in WAYS}
    for number in for_stream().track(range(times), "comparing ways", times):
        for way in random.Random(number).sample(WAYS, len(WAYS)):
            if way == "run":
                launches = measure_in_turns(contenders, fed, pairs, iterations, number, warmup_s=warmup)
                ratio = speedup_in_turns(of(launches, "float"), of(launches, "model")).ratio
            elif way == "gate":
                taken = [
                    device.launch_turns([(before, fed), (after, fed)], iterations, warmup, 1000 * number + i)
                    for i in range(pairs)
                ]
                ratio = exp(mean(-paired_log_ratio(one, other) for one, other in taken))
            else:
                ratio = _separately(device, (before, after), fed, pairs, (iterations, warmup), number)
            found[way].append(ratio)
    return found


def _separately(
    device: Any, engines: tuple[Any, Any], fed: Any, pairs: int, how: tuple[int, float], seed: int
) -> float:
    """The ratio of launches one after the other, interleaved at random, paired by round."""
    from edgepress.targets.measuring.latency import paired

    medians: tuple[list[float], list[float]] = ([], [])
    draw = random.Random(seed)
    for _ in range(pairs):
        for side in draw.sample(range(2), 2):
            medians[side].append(device.launch(engines[side], fed, *how).median_ns)
    return paired("float", *medians).ratio


if __name__ == "__main__":
    main()
