"""Our median latency against that of OpenVINO's own benchmark_app, with the same declared settings, interleaved.

\b
    python benchmarks/benchmark_app.py MODEL.onnx [--pairs 20]

Both run the very IR that `build` leaves: hint latency, synchronous, one inference at a time, copies in and
out not timed. Exit code 1 when the interval of the paired ratio lies wholly outside 0.97 to 1.03.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

import click
import onnx
from edgepress.pipeline.devices.feeds import batch_of, random_sequence
from edgepress.targets.base import TargetOptions
from edgepress.targets.measuring.device import LocalDevice
from edgepress.targets.measuring.latency import paired
from reporting import environment, markdown_table, provenance, write

PACKAGES = ("edgepress", "openvino", "numpy")
MOST_APART = 0.03


@click.command(help=__doc__)
@click.argument("model", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--pairs", default=20, show_default=True, type=click.IntRange(2))
@click.option(
    "--iterations", default=1000, show_default=True, type=click.IntRange(11), help="Timed a launch."
)
def main(model: Path, pairs: int, iterations: int) -> None:
    """Launch both in turns, and write the table."""
    told = environment(PACKAGES)
    graph = onnx.load(str(model))
    batch, varies = batch_of(graph, 0)
    fed = random_sequence(graph, batch, seed=0)
    feeds = fed.feeds[0]
    shapes = ",".join(f"{name}{list(array.shape)}".replace(" ", "") for name, array in feeds.items())
    medians: dict[str, list[float]] = {"ours": [], "benchmark_app": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        device = LocalDevice(
            "here", "openvino", TargetOptions("CPU", batch=batch if varies else 0, copies=False), folder
        )
        frozen = device.build(model, folder, feeds)
        draw = random.Random(0)
        for index in range(pairs):
            for side in draw.sample(list(medians), 2):
                if side == "ours":
                    taken = device.launch(frozen, fed, iterations, warmup_s=5.0).median_ns / 1e6
                else:
                    taken = _benchmark_app(Path(frozen.path), shapes, iterations, folder)
                medians[side].append(taken)
            print(f"pair {index + 1}: { ({s: round(m[-1], 4) for s, m in medians.items()}) } ms", flush=True)
    ratio = paired("ours", medians["ours"], medians["benchmark_app"])
    low, high = ratio.ci95
    rows = [[side, f"{median(taken):.3f} ms", str(len(taken))] for side, taken in medians.items()]
    text = (
        f"# {model.name}: our launches and benchmark_app\n\n{provenance(told)}\n"
        + markdown_table(("", "median of launches", "launches"), rows)
        + f"\nOurs / benchmark_app: {ratio.ratio:.4f} ({low:.4f}–{high:.4f}), paired.\n"
    )
    record = {"environment": told, "medians_ms": medians, "ratio": ratio.ratio, "ci95": ratio.ci95}
    print(text, "written:", *write("benchmark_app", record, text))
    if low > 1 + MOST_APART or high < 1 - MOST_APART:
        print(f"LIMIT BROKEN: the medians differ by more than {MOST_APART:.0%}")
        sys.exit(1)


def _benchmark_app(path: Path, shapes: str, iterations: int, folder: Path) -> float:
    """benchmark_app's median in ms, from its JSON report."""
    program = Path(sys.executable).with_name("benchmark_app")
    command = [
        str(program), "-m", str(path), "-d", "CPU", "-hint", "latency", "-api", "sync", "-niter", str(iterations),
        "-shape", shapes, "-report_type", "no_counters", "-json_stats", "-report_folder", str(folder),
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, text=True)
    told = json.loads((folder / "benchmark_report.json").read_text())
    return float(told["execution_results"]["latency (ms)"])  # the median, to 0.01 ms


if __name__ == "__main__":
    main()
