"""From what was measured to verdicts: one measure at a time, then all tests together (Holm), then the gate's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

from ..report_text import byte_size, metric_value, ms, signed
from .accuracy import Paired
from .record import LatencyResult, Measure, Verdict
from .sequential import Limits, holm


def size_measure(device: str, reference: int, candidate: int, against: str) -> Measure:
    """Bytes of what is shipped, exactly. against: where the reference comes from, in words."""
    grown = candidate - reference
    reason = (
        f"{grown:,} bytes more than {against}; accept it with --accept if it is meant"
        if grown > 0
        else f"no larger than {against}"
    )
    return Measure(
        name="size",
        device=device,
        verdict="FAIL" if grown > 0 else "PASS",
        baseline=byte_size(reference),
        candidate=byte_size(candidate),
        reason=reason,
    )


def outputs_measure(device: str, same: bool, difference: str, against: str) -> Measure:
    """Outputs on the fixed inputs, bit for bit. difference: in words, where they are not the same."""
    reason = (
        f"bit for bit those of {against}"
        if same
        else f"not those of {against}: {difference}; accept them with --accept if they are meant"
    )
    return Measure(
        name="outputs",
        device=device,
        verdict="PASS" if same else "FAIL",
        baseline=against,
        candidate="the same" if same else "other",
        reason=reason,
    )


def accuracy_measure(device: str, found: Paired) -> Measure:
    """The paired test of a metric; its verdict is settled with the other tests."""
    low, high = found.ci95
    drop = f"{signed(-100 * found.drop)} points, 95 % interval {signed(-100 * high)} to {signed(-100 * low)}"
    return Measure(
        name="accuracy",
        device=device,
        verdict="PASS",
        baseline=f"{found.baseline.name} {metric_value(found.baseline.value)}",
        candidate=f"{found.candidate.name} {metric_value(found.candidate.value)}",
        reason=f"{drop}, n = {found.baseline.n}",
        p=found.p,
    )


def latency_measure(device: str, found: LatencyResult) -> Measure:
    """The sequential test of one device; its verdict is settled with the other tests."""
    last = found.last
    if last is None:
        return Measure(
            name="latency",
            device=device,
            verdict="INCONCLUSIVE",
            baseline="not measured",
            candidate="not measured",
            reason=f"no look was reached: {_set_aside(found)}",
            p=1.0,
        )
    typical = _baseline_ms(found)
    change = f"{signed(100 * (last.ratio - 1), 1)} %"
    bounds = f"{signed(100 * (last.lower - 1), 1)} to {signed(100 * (last.upper - 1), 1)} %"
    return Measure(
        name="latency",
        device=device,
        verdict="PASS",
        baseline=ms(typical),
        candidate=ms(typical * last.ratio),
        reason=f"{change}, decision bounds {bounds}, {last.pairs} pairs",
        p=last.p,
    )


def settle(
    measures: Sequence[Measure], latencies: Mapping[str, LatencyResult], limits: Limits
) -> tuple[list[Measure], Verdict, str]:
    """Adjust the tests' p-values for each other, give each its verdict, and the gate the worst of all."""
    tested = [i for i, measure in enumerate(measures) if measure.p is not None]
    adjusted = dict(zip(tested, holm([measures[i].p or 0.0 for i in tested]), strict=True))
    settled = [
        _settled(measure, adjusted[i], latencies, limits) if i in adjusted else measure
        for i, measure in enumerate(measures)
    ]
    for verdict in ("FAIL", "INCONCLUSIVE"):
        named = [m for m in settled if m.verdict == verdict]
        if named:
            return settled, verdict, " ".join(f"{subject_of(m)}: {m.reason}." for m in named)
    return settled, "PASS", f"All {len(settled)} measures hold."


def subject_of(measure: Measure) -> str:
    """`latency on openvino:CPU`, `size`."""
    return f"{measure.name} on {measure.device}" if measure.device else measure.name


def _settled(measure: Measure, p: float, latencies: Mapping[str, LatencyResult], limits: Limits) -> Measure:
    verdict: Verdict = "FAIL" if p <= limits.false_fail else "PASS"
    reason = measure.reason
    if measure.name == "latency":
        found = latencies[measure.device]
        verdict, why = _latency_verdict(found, p, limits)
        reason += f"; {why}" if why else ""
    return measure.model_copy(update={"p": p, "verdict": verdict, "reason": reason})


def _latency_verdict(found: LatencyResult, p: float, limits: Limits) -> tuple[Verdict, str]:
    last = found.last
    if last is None:
        return "INCONCLUSIVE", ""
    if p <= limits.false_fail and last.ranks_fail and last.difference_ms > limits.floor_ms:
        return "FAIL", f"slower than the tolerance of {100 * limits.tolerance:g} %"
    if last.decision == "PASS":
        return "PASS", ""
    if last.pairs < limits.looks[-1]:
        return "INCONCLUSIVE", f"the device did not hold out: {_set_aside(found)}"
    return "INCONCLUSIVE", "too noisy here to tell after all pairs; measure on a quieter machine"


def _set_aside(found: LatencyResult) -> str:
    return f"{len(found.set_aside)} pairs were set aside, the last because {found.set_aside[-1]}"


def _baseline_ms(found: LatencyResult) -> float:
    return median(row.median_ms for row in found.launches if row.side == "baseline")
