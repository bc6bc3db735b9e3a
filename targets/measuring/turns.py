"""Pairs of launches in turns on any device, what is set aside of them, and devices that are lost on the way."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from ..base import Feeds
from .device import Device, DeviceLostError, Frozen
from .launch import LaunchResult
from .machine import throttled

SET_ASIDE = 10
"""Pairs that may be measured anew before the device is called unfit: throttled by its own word, or lost."""


@dataclass(frozen=True)
class LaunchPlan:
    """How to launch. iterations: timed a launch; warmup_s: the most time to get steady, alone, before the turns."""

    iterations: int = 200
    warmup_s: float = 1.5
    seed: int = 0


@dataclass
class Losses:
    """What is told of pairs that do not count. set_aside: why each; lost: whether the device went for good."""

    set_aside: list[str] = field(default_factory=list)
    lost: bool = False


def launch_pairs(
    device: Device, engines: tuple[Frozen, Frozen], feeds: Feeds, plan: LaunchPlan, losses: Losses
) -> Iterator[tuple[LaunchResult, LaunchResult]]:
    """Good pairs of launches in turns; ends when too many were set aside or the device is lost: `losses` tells."""
    draw = random.Random(plan.seed)
    while len(losses.set_aside) < SET_ASIDE:
        try:
            pair = device.launch_pair(engines, feeds, plan.iterations, plan.warmup_s, draw.getrandbits(32))
        except DeviceLostError as error:
            losses.set_aside.append(str(error))
            losses.lost = len(losses.set_aside) == SET_ASIDE or not _back(device)
            if losses.lost:
                return
            continue
        reasons = [why for launched in pair if (why := throttled(launched.before, launched.after))]
        if reasons:
            losses.set_aside.append(reasons[0])
            continue
        yield pair


def _back(device: Device) -> bool:
    try:
        device.reconnect()
    except DeviceLostError:
        return False
    return True
