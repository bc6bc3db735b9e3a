"""The steps of a run as the report shows them: the waterfall, what was quantized, and what it costs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from markupsafe import Markup

from ...record import LARGEST
from ..pages.words import UNKNOWN, known, metric_change
from ..run_record import RunRecord, StepRecord
from .charts import curve, interval
from .view import DeviceView, timed_device

COVERAGE_ROWS = 400
SENSITIVITY_BARS = 20
CODE_BARS = 20


@dataclass(frozen=True)
class StepView:
    """A step with what it changed: bars are (kept, removed), shares of the largest value over all steps."""

    step: StepRecord
    latency_ms: float | None
    bars: dict[str, tuple[float, float]]
    metric_chart: Markup
    metric_change: str


def step_views(record: RunRecord, devices: Sequence[DeviceView]) -> list[StepView]:
    """Every step against the float model; latency is known for the first and the last only."""
    if not record.steps:
        return []
    device, last = timed_device(devices), len(record.steps) - 1
    times = {0: device.p50("baseline"), last: device.p50("compressed")} if device and last else {}
    metrics = [step.metric for step in record.steps]
    bounds = [v for m in metrics for v in (*m.ci95, m.value) if known(v)] or [0.0, 1.0]
    span, reference = (min(bounds), max(bounds)), metrics[0].value
    largest = {key: max(getattr(step, key) or 0 for step in record.steps) or 1 for key in ("bytes", "macs")}
    slowest = max((t for t in times.values() if t), default=1.0)
    views: list[StepView] = []
    for index, step in enumerate(record.steps):
        previous = record.steps[max(index - 1, 0)]
        bars = {key: _bar(getattr(step, key), getattr(previous, key), top) for key, top in largest.items()}
        latency = times.get(index)
        if latency:
            bars["latency"] = _bar(latency, times.get(0) or latency, slowest)
        drop = metric_change(reference, step.metric.value) if index else ""
        chart = interval(step.metric.value, step.metric.ci95, reference, span)
        views.append(StepView(step, latency, bars, chart, drop))
    return views


def _bar(value: float | None, previous: float | None, largest: float) -> tuple[float, float]:
    if value is None:
        return 0.0, 0.0  # what is unknown has no bar
    return value / largest, max((previous or 0) - value, 0) / largest


def detail_rows(step: StepRecord, key: str) -> list[dict[str, Any]]:
    """The rows that a pass left under `key` in its details; what is not a row is not shown."""
    rows = step.details.get(key)
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def _number(value: object) -> float | None:
    """A value of a pass's details as a number that bars and sums can be made of; None for all others."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if math.isfinite(value) and abs(value) <= LARGEST else None


def _name(row: dict[str, Any], key: str) -> str:
    """A name in a pass's details, which may be of another shape than ours."""
    return UNKNOWN if row.get(key) is None else str(row[key])


def coverage(step: StepRecord) -> dict[str, Any] | None:
    """Which layers a pass quantized: what stays in float first, heaviest first; None when it does not say."""
    rows = [
        {
            **{key: _name(row, key) for key in ("layer", "kind")},
            **{key: row.get(key) for key in ("quantized", "reason")},
            "macs": _number(row.get("macs")),
        }
        for row in detail_rows(step, "coverage")
    ]
    if not rows:
        return None
    rows.sort(key=lambda row: (bool(row["quantized"]), -_macs(row)))
    total = sum(map(_macs, rows))
    done = [row for row in rows if row["quantized"]]
    share = sum(map(_macs, done)) / total if total else None
    return {"rows": rows[:COVERAGE_ROWS], "count": len(rows), "quantized": len(done), "share": share}


def _macs(row: dict[str, Any]) -> float:
    return row["macs"] or 0


def training(step: StepRecord) -> list[dict[str, Any]]:
    """The trainings of a pass: each phase with its loss and its validation metric, epoch by epoch."""
    phases = step.details.get("training")
    if not isinstance(phases, dict):
        return []
    found = []
    for phase, history in phases.items():
        epochs = history.get("epochs") if isinstance(history, dict) else None
        rows = [row for row in epochs if isinstance(row, dict)] if isinstance(epochs, list) else []
        kept = history.get("best") if isinstance(history, dict) else None
        kept = kept if isinstance(kept, int) and 0 <= kept < len(rows) else None
        charts = [
            curve([_number(row.get(key)) for row in rows], kept, label)
            for key, label in (("loss", "training loss"), ("metric", f"validation {step.metric.name}"))
        ]
        found.append(
            {"phase": phase, "kept": kept, "last": len(rows) - 1, "charts": [c for c in charts if c]}
        )
    return found


def code_sizes(step: StepRecord) -> list[dict[str, Any]]:
    """The tensors that became codes, those that take the most bytes first."""
    keys = ("weights", "bits_per_weight", "zeros")
    rows = [
        {**row, "tensor": _name(row, "tensor"), "bytes": row["weights"] * row["bits_per_weight"] / 8}
        for row in detail_rows(step, "tensors")
        if all(_number(row.get(key)) is not None for key in keys)
    ]
    return sorted(rows, key=itemgetter("bytes"), reverse=True)


def sensitivity(step: StepRecord) -> list[dict[str, Any]]:
    """The layers that quantization hurts most: lowest SQNR first."""
    rows = [
        {"layer": _name(row, "layer"), "sqnr_db": found}
        for row in detail_rows(step, "sensitivity")
        if (found := _number(row.get("sqnr_db"))) is not None
    ]
    return sorted(rows, key=itemgetter("sqnr_db"))[:SENSITIVITY_BARS]
