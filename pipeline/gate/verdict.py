"""From what was measured to verdicts: one measure at a time, then all tests together (Holm), then the gate's own."""

from __future__ import annotations

from collections.abc import Sequence
from math import expm1
from statistics import median

from ...calibration.statistics import holm
from ..pages.words import byte_size, metric_value, ms, signed
from .accuracy import Paired
from .record import LatencyResult, Measure, Verdict
from .sequential import Limits, Look

ACCEPT = "accept it with --accept if it is meant"


def size_measure(device: str, reference: int, candidate: int, against: str) -> Measure:
    """Bytes of what is shipped, exactly. against: where the reference comes from, in words."""
    grown = candidate - reference
    return Measure(
        name="size",
        device=device,
        verdict="FAIL" if grown > 0 else "PASS",
        baseline=byte_size(reference),
        candidate=byte_size(candidate),
        reason=f"{grown:,} bytes more than {against}; {ACCEPT}" if grown > 0 else f"no larger than {against}",
    )


def outputs_measure(device: str, same: bool, finite: bool, difference: str, against: str) -> Measure:
    """Outputs on the fixed inputs, bit for bit. difference: in words, where they are not the same."""
    if not finite:
        reason = "they hold NaN or infinite values"
    elif same:
        reason = f"bit for bit those of {against}"
    else:
        reason = f"not those of {against}: {difference}; {ACCEPT}"
    return Measure(
        name="outputs",
        device=device,
        verdict="PASS" if same and finite else "FAIL",
        baseline=against,
        candidate="the same" if same else "other",
        reason=reason,
    )


def accuracy_measure(device: str, found: Paired, most_drop: float) -> Measure:
    """The paired test of a metric; a FAIL is settled with the other tests. most_drop: what must surely be kept."""
    kept = found.at_most <= most_drop
    bound = f"surely no more than {100 * max(found.at_most, 0):.2f} points lost"
    limit = f"the limit is {100 * most_drop:g}"
    more = "" if kept else f", {limit}: too few samples to tell, or too many that differ"
    return Measure(
        name="accuracy",
        device=device,
        verdict="PASS" if kept else "INCONCLUSIVE",
        baseline=f"{found.baseline.name} {metric_value(found.baseline.value)}",
        candidate=f"{found.candidate.name} {metric_value(found.candidate.value)}",
        reason=f"{signed(-100 * found.drop + 0.0)} points, {bound}{more}, n = {found.baseline.n}",
        p=found.p,
    )


def latency_measure(device: str, found: LatencyResult, limits: Limits) -> Measure:
    """The sequential test of one device; a FAIL is settled with the other tests."""
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
    typical = median(row.median_ms for row in found.launches if row.side == "baseline")
    change = f"{signed(100 * (last.ratio - 1), 1)} %"
    bounds = f"{signed(100 * (last.lower - 1), 1)} to {signed(100 * (last.upper - 1), 1)} %"
    return Measure(
        name="latency",
        device=device,
        verdict="PASS" if last.decision == "PASS" else "INCONCLUSIVE",
        baseline=ms(typical),
        candidate=ms(typical * last.ratio),
        reason=f"{change}, decision bounds {bounds}, {last.pairs} pairs{_because(found, last, typical, limits)}",
        p=last.p if last.ranks_fail and last.decision != "PASS" else 1.0,
    )


def _because(found: LatencyResult, last: Look, typical: float, limits: Limits) -> str:
    """What decided, or why nothing did."""
    minded = _limit_in_words(limits.minded(typical), limits.tolerance, limits)
    barred = _limit_in_words(limits.barred(typical), limits.budget, limits)
    if last.decision == "FAIL":
        return f"; slower than the {minded} that nobody minds, beyond noise"
    if last.decision == "PASS":
        above = last.ratio > 1 + limits.tolerance
        told = f", yet above the tolerance of {100 * limits.tolerance:g} %" if above else ""
        return f"; surely below {barred}{told}"
    if last.pairs < limits.looks[-1]:
        return f"; the device did not hold out: {_set_aside(found)}"
    return f"; neither surely slower than {minded} nor surely below {barred}; measure on a quieter machine"


def _limit_in_words(log_ratio: float, own: float, limits: Limits) -> str:
    """Per cent, and whether they are the floor's because it is more than the limit's own."""
    share = expm1(log_ratio)
    floor = f" (the floor of {limits.floor_ms:g} ms)" if share > 1.001 * own else ""
    return f"{100 * share:.3g} %{floor}"


def settle(measures: Sequence[Measure], limits: Limits) -> tuple[list[Measure], Verdict, str]:
    """Adjust the tests' p-values for each other, make FAIL what they prove, and give the gate the worst of all."""
    tested = [i for i, measure in enumerate(measures) if measure.p is not None]
    adjusted = dict(zip(tested, holm([measures[i].p or 0.0 for i in tested]), strict=True))
    settled = [
        _settled(measure, adjusted[i], limits) if i in adjusted else measure
        for i, measure in enumerate(measures)
    ]
    for verdict in ("FAIL", "INCONCLUSIVE"):
        named = [m for m in settled if m.verdict == verdict]
        if named:
            return settled, verdict, " ".join(f"{subject_of(m)}: {m.reason}." for m in named)
    return settled, "PASS", f"All {len(settled)} measures hold."


def _settled(measure: Measure, p: float, limits: Limits) -> Measure:
    if p > limits.false_fail:
        return measure.model_copy(update={"p": p})
    reason = measure.reason.partition("; neither")[0]  # Holm's later steps may prove what its first could not
    return measure.model_copy(update={"p": p, "verdict": "FAIL", "reason": reason})


def subject_of(measure: Measure) -> str:
    """`latency on openvino:CPU`, `size`."""
    return f"{measure.name} on {measure.device}" if measure.device else measure.name


def _set_aside(found: LatencyResult) -> str:
    last = f", the last because {found.set_aside[-1]}" if found.set_aside else ""
    return f"{len(found.set_aside)} pairs were set aside{last}"
