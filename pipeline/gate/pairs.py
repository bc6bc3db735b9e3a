"""Pairs of launches, baseline and candidate, until the sequential test has decided or its looks are used up."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from ...progress import Progress, Silent
from ...targets.base import Feeds
from ...targets.device import Device, DeviceLostError, Frozen
from ...targets.launch import LaunchResult
from ...targets.machine import throttled
from .record import LatencyResult, LaunchRow, LookRow
from .sequential import Limits, look

SET_ASIDE = 10
"""Pairs that may be measured anew before the device is called unfit: throttled by its own word, or lost."""


@dataclass(frozen=True)
class LaunchPlan:
    """How to launch. iterations: timed a launch; warmup_s: the most time to get steady."""

    iterations: int = 100
    warmup_s: float = 5.0
    seed: int = 0


def gate_latency(
    device: Device,
    baseline: Frozen,
    candidate: Frozen,
    feeds: Feeds,
    limits: Limits,
    plan: LaunchPlan,
    share: float = 1.0,
    progress: Progress = Silent(),
) -> LatencyResult:
    """Measure until a look decides. A pair whose device throttled by its own word, or went away, is measured anew.

    Which pairs are set aside never depends on their times. Without a decision (`last.decision` is MORE, or there is no
    look) the pairs ran out, or the device did.
    """
    result = LatencyResult(looks=[], launches=[])
    medians: dict[str, list[float]] = {"baseline": [], "candidate": []}
    wanted = iter(limits.looks)
    target = next(wanted)
    pairs = launch_pairs(
        device, {"baseline": baseline, "candidate": candidate}, feeds, plan, result.set_aside
    )
    for pair in progress.track(
        pairs, f"{device.label}: pairs of launches", limits.looks[-1], lambda: _status(result)
    ):
        index = len(medians["baseline"])
        for side, launched in pair.items():
            medians[side].append(launched.median_ns / 1e6)
            result.launches.append(_row(side, index, len(result.launches), launched))
        if index + 1 < target:
            continue
        found = look(medians["baseline"], medians["candidate"], limits, share)
        result.looks.append(LookRow.model_validate(asdict(found)))
        if found.decision != "MORE":
            break
        target = next(wanted, 0)
        if not target:
            break
    return result


def launch_pairs(
    device: Device, engines: dict[str, Frozen], feeds: Feeds, plan: LaunchPlan, set_aside: list[str]
) -> Iterator[dict[str, LaunchResult]]:
    """Good pairs, each in the order of its launches; ends when too many were set aside, or the device stays away."""
    draw = random.Random(plan.seed)
    while len(set_aside) < SET_ASIDE:
        pair: dict[str, LaunchResult] = {}
        try:
            for side in draw.sample(list(engines), len(engines)):
                pair[side] = device.launch(engines[side], feeds, plan.iterations, plan.warmup_s)
        except DeviceLostError as error:
            set_aside.append(str(error))
            if not _back(device):
                return
            continue
        reasons = [why for launched in pair.values() if (why := throttled(launched.before, launched.after))]
        if reasons:
            set_aside.append(reasons[0])
            continue
        yield pair


def _back(device: Device) -> bool:
    try:
        device.reconnect()
    except DeviceLostError:
        return False
    return True


def _row(side: str, pair: int, order: int, launched: LaunchResult) -> LaunchRow:
    return LaunchRow.model_validate(
        {
            "side": side,
            "pair": pair,
            "order": order,
            "median_ms": launched.median_ns / 1e6,
            "samples_ns": list(launched.samples_ns),
            "state_before": vars(launched.before),
            "state_after": vars(launched.after),
        }
    )


def _status(result: LatencyResult) -> str:
    last = result.last
    return "" if last is None else f"{100 * (last.lower - 1):+.1f} to {100 * (last.upper - 1):+.1f} %"
