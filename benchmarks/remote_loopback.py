"""A device over SSH against the same device without: engine and outputs bit for bit, latency in interleaved pairs.

\b
    python benchmarks/remote_loopback.py MODEL.onnx [--pairs 12] [--runtime openvino]

An SSH server of its own on loopback, so that both are this machine. Inputs are random. Exit code 1 when a digest
differs, or when the ratio's interval lies wholly outside 0.97 to 1.03: then the connection disturbs what is timed.
"""

from __future__ import annotations

import random
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import click
import onnx
from edgepress.pipeline.devices.feeds import batch_of, random_sequence
from edgepress.targets import TARGETS
from edgepress.targets.base import TargetOptions
from edgepress.targets.measuring.device import Device, LocalDevice
from edgepress.targets.measuring.feeds import FeedSequence
from edgepress.targets.measuring.latency import paired
from edgepress.targets.measuring.launch import LaunchResult
from edgepress.targets.remote.device import RemoteDevice
from reporting import environment, markdown_table, provenance, write

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests" / "support"))
from ssh_server import kinds, running

PACKAGES = ("edgepress", "openvino", "onnxruntime", "numpy")
MOST_APART = 0.03


@click.command(help=__doc__)
@click.argument("model", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--pairs", default=12, show_default=True, type=click.IntRange(2))
@click.option("--iterations", default=100, show_default=True, type=click.IntRange(11), help="Timed a launch.")
@click.option("--runtime", default="openvino", show_default=True, type=click.Choice(sorted(TARGETS)))
@click.option("--threads", default=0, show_default=True, help="0: the runtime's own choice.")
def main(model: Path, pairs: int, iterations: int, runtime: str, threads: int) -> None:
    """Build on both sides, launch in turns, and write the table."""
    told = environment(PACKAGES)
    graph = onnx.load(str(model))
    batch, varies = batch_of(graph, 0)
    fed = random_sequence(graph, batch, seed=0)
    options = TargetOptions(threads=threads, batch=batch if varies else 0)
    with tempfile.TemporaryDirectory() as name, running(kinds()[0], Path(name)) as server:
        folder = Path(name)
        devices: dict[str, Device] = {
            "local": LocalDevice("local", runtime, options, folder),
            "over SSH": RemoteDevice("loopback", runtime, options, server.host),
        }
        record = {
            "model": model.name,
            "runtime": runtime,
            "server": server.kind,
            **measured(devices, model, fed, folder, pairs, iterations),
        }
        devices["over SSH"].close()
    text = "# A device over SSH on loopback\n\n" + provenance(told) + "\n" + _table(record)
    paths = write("remote_loopback", {"environment": told, **record}, text)
    print(text, "written:", *paths)
    broken = [f"{what} differ" for what, same in record["same"].items() if not same]
    if record["ci95"][0] > 1 + MOST_APART or record["ci95"][1] < 1 - MOST_APART:
        broken.append(f"the times differ by more than {MOST_APART:.0%}")
    for each in broken:
        print(f"LIMIT BROKEN: {each}")
    sys.exit(bool(broken))


def measured(
    devices: dict[str, Device], model: Path, fed: FeedSequence, folder: Path, pairs: int, iterations: int
) -> dict[str, Any]:
    """Medians of the launches in ms of each side, their paired ratio (over SSH / local), and what is the same."""
    frozen = {side: device.build(model, folder / side, fed.feeds[0]) for side, device in devices.items()}
    launches: dict[str, list[LaunchResult]] = {side: [] for side in devices}
    draw = random.Random(0)
    for index in range(pairs):
        for side in draw.sample(list(devices), len(devices)):
            launches[side].append(devices[side].launch(frozen[side], fed, iterations, warmup_s=5.0))
        last = {side: round(taken[-1].median_ns / 1e6, 4) for side, taken in launches.items()}
        print(f"pair {index + 1} of {pairs}: {last} ms", flush=True)
    medians = {side: [launch.median_ns / 1e6 for launch in taken] for side, taken in launches.items()}
    ratio = paired("over SSH", medians["over SSH"], medians["local"])
    outputs = {launch.outputs_sha256 for taken in launches.values() for launch in taken}
    return {
        "medians_ms": medians,
        "ratio": ratio.ratio,
        "ci95": ratio.ci95,
        "same": {"engines": len({one.sha256 for one in frozen.values()}) == 1, "outputs": len(outputs) == 1},
        "engine_sha256": {side: one.sha256 for side, one in frozen.items()},
    }


def _table(record: dict[str, Any]) -> str:
    header = ("", "median of launches", "launches", "engine SHA-256")
    rows = [
        [side, f"{median(taken):.4f} ms", str(len(taken)), record["engine_sha256"][side][:16]]
        for side, taken in record["medians_ms"].items()
    ]
    low, high = record["ci95"]
    agree = "; ".join(
        f"{what} {'agree bit for bit' if same else 'DIFFER'}" for what, same in record["same"].items()
    )
    return (
        f"{record['model']} on {record['runtime']}, server: {record['server']}\n\n"
        + markdown_table(header, rows)
        + f"\nOver SSH / local: {record['ratio']:.4f} ({low:.4f}–{high:.4f}), paired. {agree.capitalize()}.\n"
    )


if __name__ == "__main__":
    main()
