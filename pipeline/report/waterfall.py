"""The waterfall of a run: size, latency and metric from the float model through every pass to what is shipped."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from ...calibration.measurement import FidelityRecord, MetricRecord
from ...targets.measuring.latency import Speedup
from ..pages.words import NOT_MEASURED, known, metric_change, percent, ratio
from ..run_record import ArtefactRecord, RunRecord, StepRecord
from .charts import interval
from .view import DeviceView, timed_device

SHIPPED = ("l2z", "onnx", "packed-weights")
"""Kinds of files that a run ships wherever it is to run, the one whose size counts first."""
WORTH_TELLING = 1.005
"""Times smaller, from which it shows in two decimals."""


@dataclass(frozen=True)
class Row:
    """What every row has: bars are (kept, removed), shares of the largest over all rows; what is unknown has none."""

    latency_ms: float | None
    bars: dict[str, tuple[float, float]]
    metric_chart: Markup
    metric_change: str
    smaller: str


@dataclass(frozen=True)
class StepRow(Row):
    """A step. The float model alone is timed: between passes no engine is built."""

    step: StepRecord


@dataclass(frozen=True)
class ShippedRow(Row):
    """The last row: the files that are shipped, and the compressed engine on a device."""

    files: list[ArtefactRecord]
    device: DeviceView | None

    @property
    def metric(self) -> MetricRecord | None:
        """The compressed engine's metric on the device."""
        return _metric_on(self.device)

    @property
    def fidelity(self) -> FidelityRecord | None:
        """How alike the compressed engine answers on the device to the float model."""
        return self.device.target.fidelity if self.device is not None else None

    @property
    def speedup(self) -> Speedup | None:
        """The speed-up over the float engine in f32; None where it was not measured."""
        return self.device.target.speedup_over_f32 if self.device is not None else None


@dataclass(frozen=True)
class Waterfall:
    """All rows. device: the one that latencies are of; shipped: None when there is nothing to tell of it."""

    steps: list[StepRow]
    device: DeviceView | None = None
    shipped: ShippedRow | None = None

    @property
    def compared(self) -> bool:
        """Whether any step's answers were compared with those of the float model."""
        found = [row.step.fidelity for row in self.steps]
        return any(found) or (self.shipped is not None and self.shipped.fidelity is not None)


def waterfall(record: RunRecord, devices: Sequence[DeviceView]) -> Waterfall:
    """Every step against the float model and the step before it, and then what is shipped."""
    if not record.steps:
        return Waterfall([])
    device = timed_device(devices) or next((d for d in devices if _metric_on(d) is not None), None)
    scales = _Scales.of(record, device)
    rows = [
        scales.step(step, record.steps[max(index - 1, 0)], index == 0)
        for index, step in enumerate(record.steps)
    ]
    if device is None and not scales.files:
        return Waterfall(rows)
    return Waterfall(rows, device, scales.shipped(record.steps[-1]))


@dataclass(frozen=True)
class _Scales:
    """What all rows are drawn against.

    first: the float model's step; span: of the metric's axis; largest: of each amount; files: that are shipped.
    """

    first: StepRecord
    span: tuple[float, float]
    largest: dict[str, float]
    files: list[ArtefactRecord]
    device: DeviceView | None

    @staticmethod
    def of(record: RunRecord, device: DeviceView | None) -> _Scales:
        files = [artefact for artefact in record.artefacts if artefact.kind in SHIPPED]
        files.sort(key=lambda artefact: SHIPPED.index(artefact.kind))
        metrics = [step.metric for step in record.steps]
        if (found := _metric_on(device)) is not None:
            metrics.append(found)
        bounds = [v for m in metrics for v in (*m.ci95, m.value) if known(v)] or [0.0, 1.0]
        amounts: dict[str, Sequence[float | None]] = {
            "bytes": [*(step.bytes for step in record.steps), *(file.bytes for file in files[:1])],
            "macs": [step.macs for step in record.steps],
            "latency": [_p50(device, role) for role in ("baseline", "compressed")],
        }
        largest = {
            key: max((v for v in values if v is not None and known(v)), default=0) or 1
            for key, values in amounts.items()
        }
        return _Scales(record.steps[0], (min(bounds), max(bounds)), largest, files, device)

    def step(self, step: StepRecord, previous: StepRecord, is_float: bool) -> StepRow:
        latency = _p50(self.device, "baseline") if is_float else None
        bars = {key: self._bar(key, getattr(step, key), getattr(previous, key)) for key in ("bytes", "macs")}
        if latency is not None:
            bars["latency"] = self._bar("latency", latency, latency)
        chart, change = self._metric(step.metric)
        smaller = self._smaller(step.bytes)
        return StepRow(latency, bars, chart, "" if is_float else change, smaller, step)

    def shipped(self, last: StepRecord) -> ShippedRow:
        latency, metric = _p50(self.device, "compressed"), _metric_on(self.device)
        bars = {}
        if latency is not None:
            bars["latency"] = self._bar("latency", latency, _p50(self.device, "baseline"))
        if self.files:
            bars["bytes"] = self._bar("bytes", self.files[0].bytes, last.bytes)
        chart, change = self._metric(metric) if metric is not None else (Markup(""), "")
        smaller = self._smaller(self.files[0].bytes) if self.files else ""
        return ShippedRow(latency, bars, chart, change, smaller, self.files, self.device)

    def _bar(self, key: str, value: float | None, previous: float | None) -> tuple[float, float]:
        if value is None or math.isnan(value):
            return 0.0, 0.0
        before = previous if previous is not None and known(previous) else value
        return value / self.largest[key], max(before - value, 0) / self.largest[key]

    def _metric(self, metric: MetricRecord) -> tuple[Markup, str]:
        before = self.first.metric.value
        return interval(metric.value, metric.ci95, before, self.span), metric_change(before, metric.value)

    def _smaller(self, count: int) -> str:
        before = self.first.bytes
        return f"{ratio(before / count)} smaller" if count and before / count >= WORTH_TELLING else ""


def fidelity_text(fidelity: FidelityRecord | None) -> str:
    """How alike a step answers to the float model: "99.2 %, KL 0.00123 nats"."""
    if fidelity is None:
        return NOT_MEASURED
    return f"{percent(fidelity.agreement, 1)}, {divergence_text(fidelity.kl)}"


def divergence_text(kl: float) -> str:
    """A mean divergence of predictions with its unit."""
    return f"KL {kl:.3g} nats" if known(kl) else "KL not finite"


def _metric_on(device: DeviceView | None) -> MetricRecord | None:
    engine = device.target.compressed if device is not None else None
    return engine.metric if engine is not None else None


def _p50(device: DeviceView | None, role: str) -> float | None:
    return device.p50(role) if device is not None else None
