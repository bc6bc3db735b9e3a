"""The waterfall of a run: size, latency and metric from the float model through every pass to what is shipped."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from ...calibration.measurement import FidelityRecord, MetricRecord
from ...targets.measuring.latency import Speedup
from ..int8_share import INT8
from ..pages.words import NOT_MEASURED, known, metric_change, percent, ratio
from ..run_record import ArtefactRecord, BetweenRecord, RunRecord, StepRecord
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
    """A step. computed_in: what its engine multiplies in, in words; reason: why it was not timed."""

    step: StepRecord
    computed_in: str = ""
    reason: str = ""


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
    def timed_as_shipped(self) -> bool:
        """Whether the row of the last pass has its latency below, in that of what is shipped."""
        latency = self.shipped.latency_ms if self.shipped is not None else None
        return len(self.steps) > 1 and known(latency)

    @property
    def timed_between(self) -> bool:
        """Whether any model between passes was timed."""
        return any(row.latency_ms is not None for row in self.steps[1:])

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
        scales.step(step, record.steps[max(index - 1, 0)], index) for index, step in enumerate(record.steps)
    ]
    if device is None and not scales.files:
        return Waterfall(rows)
    return Waterfall(rows, device, scales.shipped(record.steps[-1], len(record.steps)))


@dataclass(frozen=True)
class _Scales:
    """What all rows are drawn against.

    first: the float model's step; span: of the metric's axis; largest: of each amount; files: that are shipped;
    between: the models between passes on the device, by their steps.
    """

    first: StepRecord
    span: tuple[float, float]
    largest: dict[str, float]
    files: list[ArtefactRecord]
    device: DeviceView | None
    between: Mapping[int, BetweenRecord]

    @staticmethod
    def of(record: RunRecord, device: DeviceView | None) -> _Scales:
        files = [artefact for artefact in record.artefacts if artefact.kind in SHIPPED]
        files.sort(key=lambda artefact: SHIPPED.index(artefact.kind))
        metrics = [step.metric for step in record.steps]
        if (found := _metric_on(device)) is not None:
            metrics.append(found)
        bounds = [v for m in metrics for v in (*m.ci95, m.value) if known(v)] or [0.0, 1.0]
        between = {each.step: each for each in device.target.between} if device is not None else {}
        amounts: dict[str, Sequence[float | None]] = {
            "bytes": [*(step.bytes for step in record.steps), *(file.bytes for file in files[:1])],
            "macs": [step.macs for step in record.steps],
            "latency": [
                *(_p50(device, role) for role in ("baseline", "compressed")),
                *(each.latency_ms.p50 for each in between.values() if each.latency_ms is not None),
            ],
        }
        largest = {
            key: max((v for v in values if v is not None and known(v)), default=0) or 1
            for key, values in amounts.items()
        }
        return _Scales(record.steps[0], (min(bounds), max(bounds)), largest, files, device, between)

    def step(self, step: StepRecord, previous: StepRecord, index: int) -> StepRow:
        same = index > 0 and not step.modified
        latency = self._latency_before(index) if same else self._latency(index)
        bars = {key: self._bar(key, getattr(step, key), getattr(previous, key)) for key in ("bytes", "macs")}
        if latency is not None:
            bars["latency"] = self._bar("latency", latency, self._latency_before(index))
        chart, change = self._metric(step.metric)
        timed = self.between.get(index)
        computed_in = "in f32" if index == 0 else _computed_in(timed) if timed is not None else ""
        reason = timed.reason if timed is not None else ""
        return StepRow(
            latency,
            bars,
            chart,
            change if index else "",
            self._smaller(step.bytes),
            step,
            computed_in,
            reason,
        )

    def _latency(self, index: int) -> float | None:
        """Of the model after a step; None where it was not timed."""
        if index == 0:
            return _p50(self.device, "baseline")
        timed = self.between.get(index)
        return timed.latency_ms.p50 if timed is not None and timed.latency_ms is not None else None

    def _latency_before(self, index: int) -> float | None:
        """The last one that was measured before a step."""
        known_before = (self._latency(before) for before in range(max(index - 1, 0), -1, -1))
        return next((latency for latency in known_before if latency is not None), None)

    def shipped(self, last: StepRecord, steps: int) -> ShippedRow:
        latency, metric = _p50(self.device, "compressed"), _metric_on(self.device)
        bars = {}
        if latency is not None:
            bars["latency"] = self._bar("latency", latency, self._latency_before(steps))
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


def _computed_in(timed: BetweenRecord) -> str:
    """What an engine multiplies in: "in f32", "97.1 % in INT8"; "" where the runtime does not say."""
    if not timed.precision:
        return ""
    share = timed.precision.get(INT8, 0.0)
    return f"{percent(share, 1)} in INT8" if share else f"in {', '.join(timed.precision)}"


def _p50(device: DeviceView | None, role: str) -> float | None:
    return device.p50(role) if device is not None else None
