"""Budgets against what was measured: one record for each promise, and the verdict of the whole run."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

from ..calibration.metric import ROUNDING
from .int8_share import int8_share, not_in_int8, uncounted_text
from .pages.words import (
    NOT_MEASURED,
    TIMES,
    between,
    byte_size,
    known,
    metric_value,
    ms,
    percent,
    ratio,
)
from .report.proofs import broken_proof
from .run_files import shipped
from .run_record import (
    ArtefactRecord,
    BudgetRecord,
    MetricRecord,
    ParityRecord,
    StepRecord,
    TargetRecord,
)

if TYPE_CHECKING:
    from .recipe.sections import Budgets, MetricDrop

Verdict = Literal["PASS", "FAIL", "INCONCLUSIVE"]


def judge(
    budgets: Budgets,
    steps: Sequence[StepRecord],
    proofs: Sequence[ParityRecord],
    targets: Sequence[TargetRecord],
    artefacts: Sequence[ArtefactRecord],
) -> tuple[list[BudgetRecord], Verdict, str]:
    """One record for each budget, the verdict, and the sentence that explains it.

    FAIL when a budget is broken or could not be measured, a proof of what is shipped is past its limit, or a device
    failed. A baseline past its limit is told, and fails only the budgets that stand on it.
    INCONCLUSIVE when nothing is broken and no device ran the model.
    A device that is not here fails only the budgets that name it.
    """
    records = []
    if budgets.metric_drop is not None:
        records.append(_metric_drop(budgets.metric_drop, steps, targets))
    records += [_latency(device, limit, targets) for device, limit in budgets.latency.items()]
    records += [_speedup(device, limit, targets) for device, limit in budgets.speedup.items()]
    records += [_int8_share(device, limit, targets) for device, limit in budgets.int8_share.items()]
    records += [_memory(device, limit, targets) for device, limit in budgets.memory.items()]
    if budgets.bytes is not None:
        records.append(_model_bytes(budgets.bytes, artefacts))
    verdict, reason = _verdict(records, proofs, targets)
    return records, verdict, reason


def _verdict(
    records: Sequence[BudgetRecord], proofs: Sequence[ParityRecord], targets: Sequence[TargetRecord]
) -> tuple[Verdict, str]:
    broken = [record for record in records if record.verdict == "FAIL"]
    problems = [f"{len(broken)} of {len(records)} budgets {'is' if len(broken) == 1 else 'are'} broken"]
    problems = problems * bool(broken) + [
        f"The {record.name} was {record.reason}"
        if record.measured == NOT_MEASURED
        else f"The {record.name} is {record.measured}, the limit is {record.limit}"
        for record in broken
    ]
    shipped_edges = [*proofs, *(t.parity for t in targets if t.parity is not None and t.parity not in proofs)]
    problems += [broken_proof(parity) for parity in shipped_edges if not parity.ok]
    problems += [
        f"The device {target.label} failed: {target.reason or 'no reason was given'}"
        for target in targets
        if target.status == "failed"
    ]
    notes = [
        f"The speed-up over a baseline on {target.label} is void. {broken_proof(parity)}"
        for target in targets
        for parity in target.broken_baselines
    ]
    if problems:
        return "FAIL", " ".join(map(_sentence, [*problems, *notes]))
    held = "every proof of what is shipped held" if notes else "every proof held"
    if not records:
        return "PASS", " ".join(
            [f"The recipe names no budgets, so nothing was promised; {held}.", *map(_sentence, notes)]
        )
    if not any(target.status == "run" for target in targets):
        return "INCONCLUSIVE", "Nothing is broken so far, but no device of the recipe could run the model."
    kept = "The one budget was kept" if len(records) == 1 else f"All {len(records)} budgets were kept"
    return "PASS", " ".join([f"{kept}, and {held}.", *map(_sentence, notes)])


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _record(name: str, limit: str, measured: str, kept: bool, reason: str) -> BudgetRecord:
    return BudgetRecord(
        name=name, limit=limit, measured=measured, verdict="PASS" if kept else "FAIL", reason=reason
    )


def _unmeasured(name: str, limit: str, why: str) -> BudgetRecord:
    return _record(name, limit, NOT_MEASURED, False, f"{NOT_MEASURED}: {why}")


def _text(limit: float, measured: float, coarse: Callable[[float], str], fine: str) -> str:
    """`measured` as text, with more digits where rounding would make it look like a limit that it is not."""
    text = coarse(measured)
    same = text == coarse(limit) and not math.isclose(limit, measured, abs_tol=ROUNDING)
    return fine.format(measured) if same else text


# -- the metric


def _metric_drop(
    budget: MetricDrop, steps: Sequence[StepRecord], targets: Sequence[TargetRecord]
) -> BudgetRecord:
    name = "metric drop"
    limit = budget.text
    if not steps:
        return _unmeasured(name, limit, "the run has no steps.")
    reference = steps[0].metric
    name = f"{reference.name} drop"
    places = [("the PyTorch model after the last pass", steps[-1].metric, reference)]
    for target in (t for t in targets if t.status == "run"):
        where = target.label
        measured = target.compressed.metric if target.compressed is not None else None
        if measured is None:
            return _unmeasured(name, limit, f"the compressed engine on {where} ran without its metric.")
        own_float = target.baseline.metric if target.baseline is not None else None
        fair = reference if _same_samples(reference, measured) else own_float
        if fair is own_float and target.broken_baselines:
            return _unmeasured(
                name, limit, f"the float engine on {where} is wrong, and nothing else ran on these samples."
            )
        if fair is None or not _same_samples(fair, measured):
            return _unmeasured(
                name, limit, f"{where} and the float model were measured on different samples "
                f"({measured.part}, n = {measured.n}, against {reference.part}, n = {reference.n})."
            )  # fmt: skip
        places.append((where, measured, fair))
    drops = [_drop(budget.relative, before, after) for _, after, before in places]
    if not all(known(drop) for drop in drops):
        where = next(place[0] for place, drop in zip(places, drops, strict=True) if not known(drop))
        return _unmeasured(name, limit, f"the metric of {where} is not a number, or the float value is 0.")
    worst = max(range(len(places)), key=lambda i: drops[i])
    kept = drops[worst] <= budget.fraction + ROUNDING
    where, after, before = places[worst]
    reason = f"{where} is the worst of {len(places)} places it was measured" if len(places) > 1 else where
    if (
        not (budget.relative or budget.units)
        and reference.name.startswith("top")
        and 1 / after.n > budget.fraction > 0
    ):
        reason += f"; with n = {after.n} one sample is {100 / after.n:.2g} points, more than the limit"
    if drops[worst] <= 0:
        reason += "; nothing was lost"
    else:
        reason += f"; the drop is {'within' if kept else 'over'} the limit of {limit}"
    return _record(name, limit, _drop_text(budget, drops[worst], before, after), kept, reason + ".")


def _same_samples(one: MetricRecord, other: MetricRecord) -> bool:
    return (one.name, one.part, one.n) == (other.name, other.part, other.n)


def _drop(relative: bool, before: MetricRecord, after: MetricRecord) -> float:
    if not relative:
        return before.value - after.value
    return (before.value - after.value) / abs(before.value) if before.value else math.nan


def _drop_text(budget: MetricDrop, drop: float, before: MetricRecord, after: MetricRecord) -> str:
    if budget.units:
        amount = f"{_text(budget.fraction, drop, lambda v: f'{v:.4g}', '{:.8g}')} units"
    else:
        amount = _text(100 * budget.fraction, 100 * drop, lambda v: f"{v:.2f}", "{:.4f}")
        amount = ("0.00" if amount == "-0.00" else amount) + (" %" if budget.relative else " points")
    return f"{amount} ({metric_value(before.value)} → {metric_value(after.value)}, n = {after.n})"


# -- one device each


def _find(device: str, targets: Sequence[TargetRecord]) -> tuple[TargetRecord | None, str]:
    """The target that a budget names, or None and why there is nothing to judge."""
    named = [target for target in targets if target.label == device]
    for target in named or [t for t in targets if t.device == device and not t.name]:
        if target.status == "run" and target.compressed is not None:
            return target, ""
        why = {
            "built": "the engine was built but could not be run here",
            "unavailable": "the device is not here",
            "failed": "the device failed",
            "run": "the compressed engine left no record",
        }[target.status]
        return None, f"{why} ({target.reason})." if target.reason else f"{why}."
    return None, f"the run has no target {device}."


def _latency(device: str, limit: float, targets: Sequence[TargetRecord]) -> BudgetRecord:
    name, limit_text = f"latency p50 on {device}", f"{limit:g} ms"
    target, why = _find(device, targets)
    if target is None or target.compressed is None:
        return _unmeasured(name, limit_text, why)
    latency = target.compressed.latency_ms
    if latency is None or not known(latency.p50):
        return _unmeasured(name, limit_text, "the compressed engine was not timed.")
    measured = _text(limit, latency.p50, ms, "{:.6f} ms")
    kept = latency.p50 <= limit
    reason = f"the median of {latency.n:,} inferences in {latency.launches} launches is "
    reason += f"{'within' if kept else 'over'} the limit"
    if latency.cached:
        reason += f"; a cached measurement of {latency.measured_at}"
    return _record(name, limit_text, measured, kept, reason + ".")


def _memory(device: str, limit: int, targets: Sequence[TargetRecord]) -> BudgetRecord:
    name, limit_text = f"peak memory on {device}", byte_size(limit)
    target, why = _find(device, targets)
    if target is None or target.compressed is None:
        return _unmeasured(name, limit_text, why)
    peak = target.compressed.peak_memory_bytes
    if peak is None:
        return _unmeasured(name, limit_text, "the machine does not tell what the process held.")
    kept = peak <= limit
    reason = f"the process of the compressed engine held {peak:,} bytes at its peak, the runtime's library included,"
    reason += f" {'within' if kept else 'over'} the limit of {limit:,}."
    return _record(name, limit_text, _text(limit, peak, byte_size, "{:,} B"), kept, reason)


def _speedup(device: str, limit: float, targets: Sequence[TargetRecord]) -> BudgetRecord:
    name, limit_text = f"speed-up on {device}", f"at least {limit:g}{TIMES}"
    target, why = _find(device, targets)
    if target is None:
        return _unmeasured(name, limit_text, why)
    if broken := target.broken_baselines:
        why = f"the proof {broken[0].edge} is broken, so that there is no baseline to be faster than."
        return _unmeasured(name, limit_text, why)
    timed = [s for s in target.speedup if known(s.ci95[0]) and known(s.ratio)]
    # A device of devices.yaml runs the float model in what its own options say, and in nothing else.
    if not timed or (target.speedup_over_f32 is None and not target.name):
        return _unmeasured(name, limit_text, "the compressed engine was not timed against the f32 engine.")
    # A float network runs in the runtime's own default where nobody asks: the faster baseline is the honest one.
    speedup = min(timed, key=lambda s: s.ci95[0])
    low, high = speedup.ci95
    kept = low >= limit
    low_text = _text(limit, low, lambda v: f"{v:.2f}", "{:.6f}")
    measured = (
        f"{ratio(speedup.ratio)} (95 % interval {between(low_text, ratio(high))}, {speedup.pairs} pairs)"
    )
    side = "at or above" if kept else "below"
    reason = f"against {speedup.baseline}, the lower end of the interval is {side} the limit."
    return _record(name, limit_text, measured, kept, reason)


def _int8_share(device: str, limit: float, targets: Sequence[TargetRecord]) -> BudgetRecord:
    name, limit_text = f"INT8 share of MACs on {device}", f"at least {100 * limit:g} %"
    target, why = _find(device, targets)
    if target is None or target.compressed is None:
        return _unmeasured(name, limit_text, why)
    share = int8_share(target.compressed)
    if share is None or not known(share.low):
        return _unmeasured(name, limit_text, "the runtime does not tell what its layers execute in.")
    if share.low == share.high:
        measured = _text(limit, share.low, percent, "{:.6%}").replace("%", " %").replace("  ", " ")
    else:
        measured = share.text(2)
    kept = share.low >= limit - ROUNDING
    if kept:
        reason = "by the runtime's own word, enough MACs are executed in INT8"
    elif share.high >= limit - ROUNDING:
        reason = f"it depends on what is unknown: {uncounted_text(share.uncounted)}"
    else:
        reason = "by the runtime's own word, too few MACs are executed in INT8"
    rest = not_in_int8(target.compressed.layers)
    if not kept and rest:
        reason += f"; not in INT8: {rest}"
    return _record(name, limit_text, measured, kept, reason + ".")


# -- the file


def _model_bytes(limit: int, artefacts: Sequence[ArtefactRecord]) -> BudgetRecord:
    found = shipped(artefacts)
    if found is None:
        return _unmeasured("size of model.onnx", byte_size(limit), "no model.onnx was exported.")
    return _size(found[0], limit, found[1])


def _size(file: str, limit: int, size: int) -> BudgetRecord:
    measured = _text(limit, size, byte_size, "{:,} B")
    kept = size <= limit
    side = "within" if kept else "over"
    reason = f"the exported model takes {size:,} bytes, {side} the limit of {limit:,}."
    return _record(f"size of {file}", byte_size(limit), measured, kept, reason)
