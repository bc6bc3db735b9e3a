"""The gate itself: freeze both sides on each device; size and outputs exactly, latency and accuracy by tests."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from ...progress import Progress, Silent
from ...targets.device import Device, DeviceFacts
from ...targets.worker import outputs_digest
from ..device_file import DeviceSection, opened
from ..environment import environment
from .accuracy import Judged, compare, judged_by
from .golden import Golden, difference, inputs_digest, kept, read_golden, write_golden
from .pairs import LaunchPlan, gate_latency
from .record import DeviceGate, GateRecord, Measure, Side
from .sequential import Limits
from .subjects import Inputs, Subject, common_inputs, freeze, subject
from .verdict import accuracy_measure, latency_measure, outputs_measure, settle, size_measure


@dataclass(frozen=True)
class GatePlan:
    """How to gate. inputs: an .npz file, else seeded values; data: a recipe whose data and metric judge accuracy.

    golden: a folder of golden files. batch 0: the models' own, or 1. commit: for the record.
    """

    limits: Limits = field(default_factory=Limits)
    launches: LaunchPlan = field(default_factory=LaunchPlan)
    batch: int = 0
    inputs: Path | None = None
    data: Path | None = None
    golden: Path | None = None
    commit: str = ""


def gate(
    baseline: Path,
    candidate: Path,
    sections: Mapping[str, DeviceSection],
    plan: GatePlan = GatePlan(),
    progress: Progress = Silent(),
) -> GateRecord:
    """Compare the candidate with the baseline on each device, interleaved, in this job.

    FAIL: larger, other outputs than accepted, less accurate, or slower than the tolerance beyond noise. INCONCLUSIVE:
    the pairs were used up without a decision, or the device went away. CompressError and its kinds: nothing was gated.
    """
    started, began = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()
    judged = judged_by(plan.data, progress) if plan.data is not None else None
    devices: list[DeviceGate] = []
    measures: list[Measure] = []
    with ExitStack() as held:
        folder = Path(held.enter_context(tempfile.TemporaryDirectory()))
        sides = held.enter_context(subject(baseline)), held.enter_context(subject(candidate))
        inputs = common_inputs(sides, plan.inputs, plan.batch, plan.launches.seed)
        share = 1 / (len(sections) * (1 if judged is None else 2))
        for device in held.enter_context(opened(sections, inputs.batch, folder)).values():
            one = _OnDevice(device, sides, inputs, plan, folder, progress)
            found, own = one.measured(judged, share)
            devices.append(found)
            measures += own
    settled, verdict, reason = settle(measures, {d.label: d.latency for d in devices}, plan.limits)
    return GateRecord(
        verdict=verdict,
        reason=reason,
        started_at=started,
        seconds=time.monotonic() - began,
        seed=plan.launches.seed,
        commit=plan.commit,
        environment=environment(),
        limits=_declared(plan),
        measures=settled,
        devices=devices,
    )


def _declared(plan: GatePlan) -> dict[str, Any]:
    launches = {"iterations": plan.launches.iterations, "warmup_s": plan.launches.warmup_s}
    return {**asdict(plan.limits), "looks": list(plan.limits.looks), **launches}


def accept(
    candidate: Path,
    sections: Mapping[str, DeviceSection],
    golden: Path,
    plan: GatePlan,
    progress: Progress = Silent(),
) -> list[tuple[Path, str]]:
    """Write the candidate's size and outputs as each device's golden file; the files, and what changed in words."""
    written = []
    with ExitStack() as held:
        folder = Path(held.enter_context(tempfile.TemporaryDirectory()))
        side = held.enter_context(subject(candidate))
        inputs = common_inputs((side,), plan.inputs, plan.batch, plan.launches.seed)
        for device in held.enter_context(opened(sections, inputs.batch, folder)).values():
            progress.say(f"{device.label}: running {candidate}")
            frozen = freeze(side, device, inputs.feeds, folder / "accepted")
            outputs = device.outputs(frozen, inputs.feeds)
            new = _golden(device, side, inputs, outputs, plan.commit)
            written.append(
                (write_golden(golden, new), f"{new.bytes:,} bytes, outputs {new.outputs_sha256[:12]}")
            )
    return written


class _OnDevice:
    """The work on one device: what `gate` asks of it, in order."""

    def __init__(
        self,
        device: Device,
        sides: tuple[Subject, Subject],
        inputs: Inputs,
        plan: GatePlan,
        folder: Path,
        progress: Progress,
    ) -> None:
        self.device = device
        self.sides = sides
        self.inputs = inputs
        self.plan = plan
        self.progress = progress
        self.facts = device.facts()
        progress.say(f"{device.label}: freezing both engines")
        place = folder / device.label.replace(":", "-")
        self.frozen = {
            role: freeze(side, device, inputs.feeds, place / role)
            for role, side in zip(("baseline", "candidate"), sides, strict=True)
        }

    def measured(self, judged: Judged | None, share: float) -> tuple[DeviceGate, list[Measure]]:
        """Everything on this device. share: of the false alarms, for each of its tests."""
        measures = self._exact()
        before, after = self.frozen["baseline"], self.frozen["candidate"]
        if judged is not None:
            found = compare(judged, self.device, before, after, self.inputs.feeds, self.progress)
            measures.append(accuracy_measure(self.device.label, found))
        latency = gate_latency(
            self.device,
            before,
            after,
            self.inputs.feeds,
            self.plan.limits,
            self.plan.launches,
            share,
            self.progress,
        )
        measures.append(latency_measure(self.device.label, latency))
        facts = self.facts
        return DeviceGate(
            label=self.device.label,
            runtime=facts.runtime,
            version=facts.version,
            machine=facts.machine,
            capabilities=facts.capabilities,
            options=self.device.options.declared(),
            baseline=self._side("baseline", self.sides[0]),
            candidate=self._side("candidate", self.sides[1]),
            latency=latency,
        ), measures

    def _exact(self) -> list[Measure]:
        """Size and outputs against what was accepted for this device, else against the baseline."""
        label = self.device.label
        outputs = {
            role: self.device.outputs(frozen, self.inputs.feeds) for role, frozen in self.frozen.items()
        }
        golden = (
            read_golden(self.plan.golden, label, self.inputs.feeds) if self.plan.golden is not None else None
        )
        if golden is None:
            accepted = _golden(self.device, self.sides[0], self.inputs, outputs["baseline"], "")
            against = "the baseline"
        else:
            accepted, against = golden, f"what was accepted at {golden.commit[:10] or golden.accepted_at}"
        same = outputs_digest(outputs["candidate"]) == accepted.outputs_sha256
        return [
            size_measure(label, accepted.bytes, self.sides[1].bytes, against),
            outputs_measure(label, same, difference(accepted.outputs, outputs["candidate"]), against),
        ]

    def _side(self, role: str, side: Subject) -> Side:
        frozen = self.frozen[role]
        return Side(
            source=str(side.path),
            engine_sha256=frozen.sha256,
            engine_bytes=frozen.bytes,
            settings={key: str(value) for key, value in frozen.settings.items()},
        )


def _golden(
    device: Device, side: Subject, inputs: Inputs, outputs: Sequence[np.ndarray[Any, Any]], commit: str
) -> Golden:
    facts: DeviceFacts = device.facts()
    return Golden(
        device=device.label,
        machine=facts.machine,
        runtime=facts.runtime,
        version=facts.version,
        accepted_at=datetime.now(UTC).isoformat(timespec="seconds"),
        commit=commit,
        source=side.path.name,
        bytes=side.bytes,
        inputs_sha256=inputs_digest(inputs.feeds),
        outputs_sha256=outputs_digest(outputs),
        outputs=kept(outputs),
    )
