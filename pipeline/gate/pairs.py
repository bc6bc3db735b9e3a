"""Pairs of launches, baseline and candidate, until the sequential test has decided or its looks are used up."""

from __future__ import annotations

from statistics import median

from ...progress import Progress, Silent
from ...targets.measuring.device import Device, Frozen
from ...targets.measuring.feeds import FeedSequence
from ...targets.measuring.launch import BLOCK, LaunchResult, paired_log_ratio
from ...targets.measuring.turns import LaunchPlan, Losses, launch_rounds
from .record import LatencyResult, LaunchRow
from .sequential import Limits, look


def gate_latency(
    device: Device,
    baseline: Frozen,
    candidate: Frozen,
    fed: FeedSequence,
    limits: Limits,
    plan: LaunchPlan,
    share: float = 1.0,
    progress: Progress = Silent(),
) -> LatencyResult:
    """Measure until a look decides. A pair whose device throttled by its own word, or went away, is measured anew.

    Which pairs are set aside never depends on their times. Without a decision (`last.decision` is MORE, or there is no
    look) the pairs ran out, or the device did.
    """
    told = {"inputs": len(fed), "inputs_sha256": fed.sha256, "inputs_origin": fed.origin}
    result, losses = LatencyResult(looks=[], launches=[], **told), Losses()
    medians: list[float] = []
    wanted = iter(limits.looks)
    target = next(wanted)
    pairs = launch_rounds(device, [(baseline, fed), (candidate, fed)], plan, losses)
    for pair in progress.track(
        pairs, f"{device.label}: pairs of launches", limits.looks[-1], lambda: _status(result)
    ):
        for side, launched in zip(("baseline", "candidate"), pair, strict=True):
            result.launches.append(_row(side, len(medians), launched))
        result.log_ratios.append(paired_log_ratio(*pair))
        medians.append(pair[0].median_ns / 1e6)
        if len(medians) < target:
            continue
        found = look(result.log_ratios, median(medians), limits, share)
        result.looks.append(found)
        if found.decision != "MORE":
            break
        target = next(wanted, 0)
        if not target:
            break
    return result.model_copy(update=vars(losses))


def _row(side: str, pair: int, launched: LaunchResult) -> LaunchRow:
    return LaunchRow.model_validate(
        {
            "side": side,
            "pair": pair,
            "block": BLOCK,
            "median_ms": launched.median_ns / 1e6,
            "samples_ns": list(launched.samples_ns),
            "state_before": vars(launched.before),
            "state_after": vars(launched.after),
        }
    )


def _status(result: LatencyResult) -> str:
    last = result.last
    return "" if last is None else f"{100 * (last.lower - 1):+.1f} to {100 * (last.upper - 1):+.1f} %"
