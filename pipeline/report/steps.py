"""What single steps of a run tell of themselves: what was quantized, how they trained, and what it costs."""

from __future__ import annotations

from operator import itemgetter
from typing import Any

from ..run_record import StepRecord
from .charts import curve
from .details import name_in, number_in, rows_in

COVERAGE_ROWS = 400
SENSITIVITY_BARS = 20
CODE_BARS = 20


def coverage(step: StepRecord) -> dict[str, Any] | None:
    """Which layers a pass quantized: what stays in float first, heaviest first; None when it does not say."""
    rows = [
        {
            **{key: name_in(row, key) for key in ("layer", "kind")},
            **{key: row.get(key) for key in ("quantized", "reason")},
            "macs": number_in(row.get("macs")),
        }
        for row in rows_in(step.details, "coverage")
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
            curve([number_in(row.get(key)) for row in rows], kept, label)
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
        {**row, "tensor": name_in(row, "tensor"), "bytes": row["weights"] * row["bits_per_weight"] / 8}
        for row in rows_in(step.details, "tensors")
        if all(number_in(row.get(key)) is not None for key in keys)
    ]
    return sorted(rows, key=itemgetter("bytes"), reverse=True)


def sensitivity(step: StepRecord) -> list[dict[str, Any]]:
    """The layers that quantization hurts most: lowest SQNR first."""
    rows = [
        {"layer": name_in(row, "layer"), "sqnr_db": found}
        for row in rows_in(step.details, "sensitivity")
        if (found := number_in(row.get("sqnr_db"))) is not None
    ]
    return sorted(rows, key=itemgetter("sqnr_db"))[:SENSITIVITY_BARS]
