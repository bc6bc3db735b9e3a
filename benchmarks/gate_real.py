"""Real gates on this machine: a model against itself, and against itself with an extra layer that slows it by 7 %.

\b
    python benchmarks/gate_real.py MODEL.onnx                       # 30 gates of each kind; half an hour to an hour
    python benchmarks/gate_real.py MODEL.onnx --gates 5 --device onnxruntime

The extra layer, or two, is a convolution with an identity kernel, at the place where it costs nearest to the slowdown
asked for, as some pairs have it; the outputs stay the same. Every gate measures anew, interleaved. Exit
code 1 when a gate fails identical builds, or when more than one in fifteen slowdowns is not caught.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from math import expm1
from pathlib import Path
from statistics import mean, median
from typing import Any

import click
import numpy as np
import onnx
from edgepress.pipeline.devices.feeds import batch_of, random_sequence
from edgepress.pipeline.devices.file import find_devices
from edgepress.pipeline.devices.sections import DeviceSection
from edgepress.pipeline.gate.run import GatePlan, gate
from edgepress.targets.measuring.device import Frozen, LocalDevice
from edgepress.targets.measuring.feeds import FeedSequence
from edgepress.targets.measuring.launch import paired_log_ratio
from edgepress.targets.measuring.turns import LaunchPlan
from onnx import helper, numpy_helper, shape_inference
from reporting import environment, markdown_table, provenance, write

PACKAGES = ("edgepress", "openvino", "onnxruntime", "numpy", "scipy")
PLACES = 8
CALIBRATING = 5
"""Pairs for each layer that is tried."""
NEAR = 0.003
"""How near a measured slowdown must be to the one asked for; else a second layer makes up for the rest."""
CAUGHT = 28 / 30


@dataclass(frozen=True)
class Place:
    """A tensor behind which a layer can go. kernel: of the layer's side."""

    tensor: str
    channels: int
    kernel: int
    macs: int


@click.command(help=__doc__)
@click.argument("model", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--gates", default=30, show_default=True, type=click.IntRange(1), help="Of each kind.")
@click.option("--device", default="openvino:CPU", show_default=True, help="As `compress gate --device`.")
@click.option("--slowdown", default=7.0, show_default=True, help="Of the slower build, in per cent.")
def main(model: Path, gates: int, device: str, slowdown: float) -> None:
    """Find the extra layer, gate, and write the table."""
    told = environment(PACKAGES)
    sections = find_devices([device], None)
    rows, broken = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        slower, found = slowed(model, sections[device], slowdown / 100, folder)
        print(f"an extra layer of {100 * found:+.1f} %: {slower.name}", flush=True)
        for kind, candidate in (("against itself", model), (f"slower by {100 * found:.1f} %", slower)):
            rows += [_gated(kind, model, candidate, sections, seed) for seed in range(gates)]
    counts = {kind: Counter(row["verdict"] for row in rows if row["kind"] == kind) for kind in _kinds(rows)}
    same, slow = counts.values()
    if same["FAIL"]:
        broken.append(f"{same['FAIL']} of {gates} gates fail identical builds")
    if slow["FAIL"] < CAUGHT * gates:
        broken.append(f"{slow['FAIL']} of {gates} slowdowns were caught, the limit is {CAUGHT * gates:.0f}")
    record = {"environment": told, "model": model.name, "device": device, "slowdown": found, "rows": rows}
    text = f"# Gates of {model.name} on {device}\n\n" + provenance(told) + "\n" + _table(rows, counts)
    print(text, "written:", *write("gate_real", record, text))
    for limit in broken:
        print(f"LIMIT BROKEN: {limit}")
    sys.exit(bool(broken))


def _gated(
    kind: str, model: Path, candidate: Path, sections: dict[str, DeviceSection], seed: int
) -> dict[str, Any]:
    plan = GatePlan(launches=LaunchPlan(seed=seed))
    record = gate(model, candidate, sections, plan)
    (latency,) = [m for m in record.measures if m.name == "latency"]
    row = {
        "kind": kind,
        "verdict": latency.verdict,
        "found": latency.reason,
        "pairs": len(record.devices[0].latency.launches) // 2,
        "seconds": record.seconds,
    }
    print(f"{kind}, gate {seed + 1}: {row['verdict']}, {row['found']}, {row['seconds']:.0f} s", flush=True)
    return row


def slowed(model: Path, section: DeviceSection, wanted: float, folder: Path) -> tuple[Path, float]:
    """The model with the extra layer whose measured slowdown is nearest to `wanted`, and that slowdown."""
    graph = onnx.load(str(model))
    batch, varies = batch_of(graph, 0)
    fed = random_sequence(graph, batch, 0)
    device = LocalDevice("here", section.runtime, section.options(batch if varies else 0), folder)
    frozen = device.build(model, folder / "model", fed.feeds[0])
    costs: dict[Place, float] = {}

    def cost(*layers: Place) -> tuple[Path, float]:
        path = folder / f"slower-{len(list(folder.glob('slower-*.onnx')))}.onnx"
        changed = graph
        for number, place in enumerate(layers):
            changed = _with_layer(changed, place, number)
        onnx.save(changed, str(path))
        found = _slowdown(device, frozen, path, fed, folder)
        told = " and ".join(f"{place.kernel}x{place.kernel} behind {place.tensor}" for place in layers)
        print(f"  {told}: {100 * found:+.1f} %", flush=True)
        return path, found

    for place in _places(graph, batch):
        path, costs[place] = cost(place)
        if abs(costs[place] - wanted) < NEAR:
            return path, costs[place]
    below = [place for place in costs if 0 < costs[place] < wanted] or list(costs)
    first = max(below, key=lambda place: costs[place])
    others = [place for place in costs if place.tensor != first.tensor]
    second = min(others, key=lambda place: abs(costs[first] + costs[place] - wanted))
    return cost(first, second)


def _places(graph: onnx.ModelProto, batch: int) -> list[Place]:
    """Outputs of convolutions with known sizes, those whose layer would add about 2 to 30 % of the work."""
    inferred = shape_inference.infer_shapes(graph)
    shapes = {
        value.name: [d.dim_value or batch for d in value.type.tensor_type.shape.dim]
        for value in [*inferred.graph.value_info, *inferred.graph.output]
    }
    found = []
    for node in graph.graph.node:
        shape = shapes.get(node.output[0], [])
        if node.op_type != "Conv" or len(shape) != 4 or min(shape) < 1:
            continue
        for kernel in (1, 3):
            _, channels, height, width = shape
            macs = channels * channels * kernel * kernel * height * width
            found.append(Place(node.output[0], channels, kernel, macs))
    found.sort(key=lambda place: place.macs)
    middle = [place for place in found if 2e6 <= place.macs <= 6e7]
    return middle[:: max(1, len(middle) // PLACES)]


def _with_layer(graph: onnx.ModelProto, place: Place, number: int = 0) -> onnx.ModelProto:
    """A copy with an identity convolution behind the place; `number` makes its names its own."""
    changed = onnx.ModelProto()
    changed.CopyFrom(graph)
    weight = np.zeros((place.channels, place.channels, place.kernel, place.kernel), np.float32)
    weight[range(place.channels), range(place.channels), place.kernel // 2, place.kernel // 2] = 1
    nodes = list(changed.graph.node)
    index = next(i for i, node in enumerate(nodes) if place.tensor in node.output)
    behind = f"{place.tensor}_behind{number}"
    for node in nodes[index + 1 :]:
        node.input[:] = [behind if name == place.tensor else name for name in node.input]
    pads = [place.kernel // 2] * 4
    layer = helper.make_node(
        "Conv", [place.tensor, f"extra_weight{number}"], [behind], f"extra{number}", pads=pads
    )
    del changed.graph.node[:]
    changed.graph.node.extend([*nodes[: index + 1], layer, *nodes[index + 1 :]])
    changed.graph.initializer.append(numpy_helper.from_array(weight, f"extra_weight{number}"))
    return changed


def _slowdown(device: LocalDevice, model: Frozen, path: Path, fed: FeedSequence, folder: Path) -> float:
    """The median of some pairs, measured as the gate does."""
    slower = device.build(path, folder / path.stem, fed.feeds[0])
    sides = [(model, fed), (slower, fed)]
    pairs = [device.launch_turns(sides, 200, 1.5, seed) for seed in range(CALIBRATING)]
    return expm1(median(paired_log_ratio(*pair) for pair in pairs))


def _kinds(rows: list[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(row["kind"] for row in rows))


def _table(rows: list[dict[str, Any]], counts: dict[str, Counter[str]]) -> str:
    header = ("candidate", "gates", "PASS", "FAIL", "INCONCLUSIVE", "pairs, mean", "seconds, median")
    cells = []
    for kind, verdicts in counts.items():
        own = [row for row in rows if row["kind"] == kind]
        shares = [str(verdicts[verdict]) for verdict in ("PASS", "FAIL", "INCONCLUSIVE")]
        pairs, seconds = mean(row["pairs"] for row in own), median(row["seconds"] for row in own)
        cells.append([kind, str(len(own)), *shares, f"{pairs:.1f}", f"{seconds:.0f}"])
    return markdown_table(header, cells)


if __name__ == "__main__":
    main()
