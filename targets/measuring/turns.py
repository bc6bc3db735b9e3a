"""Rounds of launches in turns on any device, what is set aside of them, and devices that are lost on the way."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from ...errors import CompressError
from ...progress import Progress, Silent
from .device import Device, DeviceLostError, Fed, Frozen
from .feeds import FeedSequence
from .latency import LaunchSamples, require_pairs
from .launch import LaunchResult
from .machine import throttled

SET_ASIDE = 10
"""Rounds that may be measured anew before the device is called unfit: throttled by its own word, or lost."""


@dataclass(frozen=True)
class LaunchPlan:
    """How to launch. iterations: least that are timed a launch; warmup_s: most time to get steady, alone, before."""

    iterations: int = 200
    warmup_s: float = 1.5
    seed: int = 0


@dataclass
class Losses:
    """What is told of rounds that do not count. set_aside: why each; lost: whether the device went for good."""

    set_aside: list[str] = field(default_factory=list)
    lost: bool = False


def launch_rounds(
    device: Device, engines: Sequence[Fed], plan: LaunchPlan, losses: Losses
) -> Iterator[list[LaunchResult]]:
    """Good rounds, in each of which every engine is launched once and they take turns; results in the engines' order.

    Ends when too many rounds were set aside or the device is lost: `losses` tells.
    """
    draw = random.Random(plan.seed)
    while len(losses.set_aside) < SET_ASIDE:
        try:
            taken = device.launch_turns(engines, plan.iterations, plan.warmup_s, draw.getrandbits(32))
        except DeviceLostError as error:
            losses.set_aside.append(str(error))
            losses.lost = len(losses.set_aside) == SET_ASIDE or not _back(device)
            if losses.lost:
                return
            continue
        reasons = [why for launched in taken if (why := throttled(launched.before, launched.after))]
        if reasons:
            losses.set_aside.append(reasons[0])
            continue
        yield taken


def measure_rounds(
    device: Device,
    engines: Mapping[str, Frozen],
    fed: FeedSequence,
    rounds: int,
    plan: LaunchPlan,
    progress: Progress = Silent(),
    losses: Losses | None = None,
) -> list[LaunchSamples]:
    """So many good rounds of the engines, by their labels, all fed alike; `too_few` when that many are not had.

    losses: takes what is set aside, for a caller who tells it. CompressError for fewer rounds than an interval needs.
    """
    require_pairs(rounds)
    losses, launches = losses or Losses(), list[LaunchSamples]()
    contenders = [(frozen, fed) for frozen in engines.values()]
    good = islice(launch_rounds(device, contenders, plan, losses), rounds)
    for index, taken in enumerate(progress.track(good, f"{device.label}: rounds of launches", rounds)):
        for label, result in zip(engines, taken, strict=True):
            launches.append(LaunchSamples(label, index, len(launches), result))
    counted = len(launches) // len(engines)
    if counted < rounds:
        raise too_few(device.label, f"{counted} of {rounds} rounds of launches", losses)
    return launches


def too_few(label: str, counted: str, losses: Losses) -> CompressError:
    """The error for a device that did not last all rounds: DeviceLostError where it went away for good.

    counted: in words, "3 of 6 rounds of launches".
    """
    reasons = dict.fromkeys(why.removeprefix(f"{label}: ") for why in losses.set_aside)
    told = f"only {counted} counted, as {'; '.join(list(reasons)[:3])}"
    if losses.lost:
        return DeviceLostError(f"{label}: it was lost, {told}")
    return CompressError(f"{label}: unfit to be measured on, {told}; see to its cooling and load")


def _back(device: Device) -> bool:
    try:
        device.reconnect()
    except DeviceLostError:
        return False
    return True
