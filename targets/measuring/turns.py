"""Pairs of launches in turns on any device, what is set aside of them, and devices that are lost on the way."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

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


class Losses(Protocol):
    """What is told of pairs that do not count. set_aside: why each; lost: whether the device went for good."""

    set_aside: list[str]
    lost: bool


def launch_pairs(
    device: Device, engines: tuple[Frozen, Frozen], feeds: Feeds, plan: LaunchPlan, result: Losses
) -> Iterator[tuple[LaunchResult, LaunchResult]]:
    """Good pairs of launches in turns; ends when too many were set aside or the device is lost: `result` tells."""
    draw = random.Random(plan.seed)
    while len(result.set_aside) < SET_ASIDE:
        try:
            pair = device.launch_pair(engines, feeds, plan.iterations, plan.warmup_s, draw.getrandbits(32))
        except DeviceLostError as error:
            result.set_aside.append(str(error))
            result.lost = len(result.set_aside) == SET_ASIDE or not _back(device)
            if result.lost:
                return
            continue
        reasons = [why for launched in pair if (why := throttled(launched.before, launched.after))]
        if reasons:
            result.set_aside.append(reasons[0])
            continue
        yield pair


def _back(device: Device) -> bool:
    try:
        device.reconnect()
    except DeviceLostError:
        return False
    return True
