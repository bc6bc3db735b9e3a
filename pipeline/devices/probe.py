"""Probe: what a device is, how it is now, and the smallest slowdown that a gate can police on it."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median, stdev
from typing import Any

import numpy as np

from ...calibration.statistics import deviation_bound
from ...errors import CompressError
from ...progress import Progress, Silent
from ...record import Record
from ...targets.measuring.device import Device
from ...targets.measuring.feeds import FeedSequence
from ...targets.measuring.latency import of
from ...targets.measuring.launch import paired_log_ratio
from ...targets.measuring.turns import LaunchPlan, Losses, measure_rounds
from ..gate.sequential import Limits, smallest_slowdown
from ..launch_inputs import default_inputs
from ..onnx_files.file import read_graph
from ..onnx_files.inputs import NOTHING, GivenShapes, with_shapes
from .feeds import batch_of, random_sequence
from .opened import folder_name, opened
from .sections import DeviceSection

REFERENCE = "a convolutional network of 0.6 GMACs"
CHANNELS, SIZE, LAYERS = 64, 48, 7


class Probe(Record):
    """One device. sd: of a pair's log-ratio when an engine is timed against itself; None: pairs were not asked for.

    smallest_slowdown: what a gate on this model calls FAIL with probability 0.95, as a fraction; worst: the same at the
    upper 95 % limit of the sd, which so few pairs know only roughly.
    """

    label: str
    runtime: str
    device: str
    version: str | None
    capabilities: dict[str, str]
    machine: str
    state: dict[str, Any]
    settings: dict[str, Any] = {}
    model: str = ""
    pairs: int = 0
    median_ms: float | None = None
    sd: float | None = None
    smallest_slowdown: float | None = None
    worst_smallest_slowdown: float | None = None
    set_aside: list[str] = []


@dataclass(frozen=True)
class ProbePlan:
    """model: an ONNX file, None for a network made for this; pairs: of an engine with itself, 0 for none."""

    model: Path | None = None
    pairs: int = 12
    iterations: int = 200
    seed: int = 0
    shapes: GivenShapes = NOTHING


def probe(
    sections: Mapping[str, DeviceSection], plan: ProbePlan, progress: Progress = Silent()
) -> list[Probe]:
    """Ask each device, and time A/A pairs on it. DeviceUnavailableError when one is not there."""
    if plan.pairs == 1:
        raise CompressError("pairs is 1: a spread needs at least 2, or 0 to measure none")
    with ExitStack() as held:
        folder = Path(held.enter_context(tempfile.TemporaryDirectory()))
        named = plan.model or _reference_model(folder / "reference.onnx")
        model = held.enter_context(with_shapes(named, plan.shapes))
        graph = read_graph(model)
        batch, varies = batch_of(graph, 0)
        fed = random_sequence(graph, batch, plan.seed, default_inputs([graph]), asked=False)
        with opened(sections, batch if varies else 0) as devices:
            return [_probed(device, model, fed, folder, plan, progress) for device in devices.values()]


def _probed(
    device: Device, model: Path, fed: FeedSequence, folder: Path, plan: ProbePlan, progress: Progress
) -> Probe:
    facts = device.facts()
    told = Probe(
        label=device.label,
        runtime=facts.runtime,
        device=facts.device,
        version=facts.version,
        capabilities=facts.capabilities,
        machine=facts.machine,
        state=asdict(facts.state),
    )
    if not plan.pairs:
        return told
    frozen = device.build(model, folder / folder_name(device.label), fed.feeds[0])
    losses, how = Losses(), LaunchPlan(plan.iterations, seed=plan.seed)
    twice = {"first": frozen, "again": frozen}
    launches = measure_rounds(device, twice, fed, plan.pairs, how, progress, losses)
    found = list(zip(of(launches, "first"), of(launches, "again"), strict=True))
    sd = stdev(paired_log_ratio(one.result, other.result) for one, other in found)
    limits, typical = Limits(), median(each.result.median_ns for each in launches) / 1e6
    return told.model_copy(
        update={
            "settings": {key: str(value) for key, value in frozen.settings.items()},
            "model": REFERENCE if plan.model is None else plan.model.name,
            "pairs": len(found),
            "median_ms": typical,
            "sd": sd,
            "smallest_slowdown": smallest_slowdown(sd, typical, limits),
            "worst_smallest_slowdown": smallest_slowdown(deviation_bound(sd, len(found)), typical, limits),
            "set_aside": losses.set_aside,
        }
    )


def _reference_model(path: Path) -> Path:
    """Some convolutions with seeded weights: what every runtime runs, and long enough to time one by one."""
    import onnx
    from onnx import helper, numpy_helper

    draw = np.random.default_rng(0)
    nodes, weights, tensor = [], [], "input"
    for layer in range(LAYERS):
        weight = draw.standard_normal((CHANNELS, CHANNELS, 3, 3)).astype(np.float32) / (3 * CHANNELS**0.5)
        weights.append(numpy_helper.from_array(weight, f"weight{layer}"))
        nodes.append(
            helper.make_node(
                "Conv", [tensor, f"weight{layer}"], [f"sum{layer}"], f"conv{layer}", pads=[1, 1, 1, 1]
            )
        )
        tensor = f"out{layer}" if layer < LAYERS - 1 else "output"
        nodes.append(helper.make_node("Relu", [f"sum{layer}"], [tensor], f"relu{layer}"))
    shape = [1, CHANNELS, SIZE, SIZE]
    ends = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, shape) for n in ("input", "output")]
    graph = helper.make_graph(nodes, "reference", ends[:1], ends[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9), str(path))
    return path
