"""The gate itself: freeze both sides on each device; size and outputs exactly, latency and accuracy by tests."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ...progress import Progress, Silent
from ...targets.base import FAKE
from ...targets.measuring.device import Device
from ...targets.measuring.digests import outputs_digest
from ...targets.measuring.feeds import FeedSequence, repeated
from ...targets.measuring.turns import LaunchPlan
from ..devices.opened import opened, require_reached
from ..devices.sections import DeviceSection
from ..environment import environment
from ..onnx_files.inputs import NOTHING, GivenShapes
from .accuracy import Judged, compare, judged_by
from .golden import difference, finite, golden_of, read_golden
from .pairs import gate_latency
from .record import DeviceGate, GateRecord, Measure, Side
from .sequential import Limits
from .subjects import Inputs, Subject, common_inputs, freeze, subject
from .timed_inputs import outputs_in_turn, timed_inputs
from .verdict import accuracy_measure, latency_measure, outputs_measure, settle, size_measure


@dataclass(frozen=True)
class GatePlan:
    """How to gate. inputs: an .npz file, else seeded values; data: a recipe whose data and metric judge accuracy.

    most_drop: of the metric, that the candidate must surely keep. golden: a folder of golden files. batch 0: the
    models' own, or 1. commit: for the record. shapes: of inputs, where the models leave sizes open.
    samples: that engines are fed in turn, from `data` or random; 0: one input, or more where the work depends on them.
    """

    limits: Limits = field(default_factory=Limits)
    launches: LaunchPlan = field(default_factory=LaunchPlan)
    batch: int = 0
    inputs: Path | None = None
    data: Path | None = None
    most_drop: float = 0.02
    golden: Path | None = None
    commit: str = ""
    shapes: GivenShapes = NOTHING
    samples: int = 0


def gate(
    baseline: Path,
    candidate: Path,
    sections: Mapping[str, DeviceSection],
    plan: GatePlan = GatePlan(),
    progress: Progress = Silent(),
) -> GateRecord:
    """Compare the candidate with the baseline on each device, interleaved, in this job.

    FAIL: larger, other outputs than accepted, less accurate, or slower than the tolerance beyond noise. INCONCLUSIVE:
    the pairs were used up without a decision, the device went away between them, or there are too few samples.
    CompressError and its kinds: nothing was gated.
    """
    started, began = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()
    judged = judged_by(plan.data, progress) if plan.data is not None else None
    devices: list[DeviceGate] = []
    measures: list[Measure] = []
    with ExitStack() as held:
        folder = Path(held.enter_context(tempfile.TemporaryDirectory()))
        sides = (
            held.enter_context(subject(baseline, plan.shapes)),
            held.enter_context(subject(candidate, plan.shapes)),
        )
        inputs = common_inputs(sides, plan.inputs, plan.batch, plan.launches.seed)
        judged = judged.fitted(inputs.feeds) if judged is not None else None
        part = judged.part if judged is not None else None
        fed = timed_inputs(inputs, sides, plan.inputs, plan.samples, part, plan.launches.seed)
        require_reached(sections)
        share = 1 / (len(sections) * (1 if judged is None else 2))
        for name, section in sections.items():  # one after the other: two names may be of one device
            with opened({name: section}, inputs.batch) as opened_one:
                one = _OnDevice(opened_one[name], sides, inputs, fed, plan, folder, progress)
                found, own = one.measured(judged, share)
            devices.append(found)
            measures += own
    settled, verdict, reason = settle(measures, plan.limits)
    return GateRecord(
        verdict=verdict,
        reason=reason + _remarks(devices),
        started_at=started,
        seconds=time.monotonic() - began,
        seed=plan.launches.seed,
        commit=plan.commit,
        environment=environment(),
        limits=_declared(plan),
        measures=settled,
        devices=devices,
    )


def _remarks(devices: list[DeviceGate]) -> str:
    """What a reader of a verdict must not overlook."""
    same = all(device.baseline.engine_sha256 == device.candidate.engine_sha256 for device in devices)
    simulated = ", ".join(device.label for device in devices if device.runtime == FAKE)
    return (" Both sides are the same engine." if same else "") + (
        f" Simulated, not measured: {simulated}." if simulated else ""
    )


def _declared(plan: GatePlan) -> dict[str, Any]:
    launches = {"iterations": plan.launches.iterations, "warmup_s": plan.launches.warmup_s}
    looks = list(plan.limits.looks)
    return {**asdict(plan.limits), "looks": looks, "most_drop": plan.most_drop, **launches}


class _OnDevice:
    """The work on one device: what `gate` asks of it, in order."""

    def __init__(
        self,
        device: Device,
        sides: tuple[Subject, Subject],
        inputs: Inputs,
        fed: FeedSequence,
        plan: GatePlan,
        folder: Path,
        progress: Progress,
    ) -> None:
        self.device = device
        self.sides = sides
        self.inputs = inputs
        self.fed = fed
        self.plan = plan
        self.progress = progress
        self.facts = device.facts()
        progress.say(f"{device.label}: freezing both engines")
        before, after = freeze(sides, device, inputs.feeds, folder)
        self.frozen = before, after

    def measured(self, judged: Judged | None, share: float) -> tuple[DeviceGate, list[Measure]]:
        """Everything on this device. share: of the false alarms, for each of its tests."""
        label, plan = self.device.label, self.plan
        measures = self._exact()
        if judged is not None:
            found = compare(judged, self.device, *self.frozen, self.inputs.feeds, self.progress)
            measures.append(accuracy_measure(label, found, plan.most_drop))
        latency = gate_latency(
            self.device, *self.frozen, self.fed, plan.limits, plan.launches, share, self.progress
        )
        measures.append(latency_measure(label, latency, plan.limits))
        return DeviceGate(
            label=label,
            runtime=self.facts.runtime,
            version=self.facts.version,
            machine=self.facts.machine,
            capabilities=self.facts.capabilities,
            options=self.device.options.declared(),
            baseline=self._side(0),
            candidate=self._side(1),
            latency=latency,
        ), measures

    def _exact(self) -> list[Measure]:
        """Size and outputs against what was accepted for this device, else against the baseline."""
        label, known = self.device.label, (self.fed, repeated(self.inputs.feeds))
        golden = read_golden(self.plan.golden, label, known) if self.plan.golden is not None else None
        digest = self.fed.sha256 if golden is None else golden.inputs_sha256
        fed = next(each for each in known if each.sha256 == digest)
        before, after = (outputs_in_turn(self.device, frozen, fed) for frozen in self.frozen)
        baseline = golden_of(label, self.facts, self.sides[0], fed, before)
        accepted = f"what was accepted ({golden.origin})" if golden is not None else "the baseline"
        size, outputs, told = golden or baseline, golden or baseline, accepted
        if golden is not None and not golden.made_on(self.facts):
            outputs, elsewhere = baseline, f"{golden.machine}, {golden.version}"
            told = f"the baseline (what was accepted is of {elsewhere}: its bits mean nothing here)"
        elif golden is not None and baseline.outputs_sha256 != golden.outputs_sha256:
            told += ", which the baseline's are not either"
        same = outputs_digest(after) == outputs.outputs_sha256
        return [
            size_measure(label, size.bytes, self.sides[1].bytes, accepted),
            outputs_measure(label, same, finite(after), difference(outputs.outputs, after), told),
        ]

    def _side(self, index: int) -> Side:
        frozen, side = self.frozen[index], self.sides[index]
        return Side(
            source=str(side.path),
            name=side.name,
            bytes=side.bytes,
            engine_sha256=frozen.sha256,
            engine_bytes=frozen.bytes,
            settings={key: str(value) for key, value in frozen.settings.items()},
        )
