"""To what numbers of channels a layer may be cut: multiples that devices compute well."""

from __future__ import annotations

FEWEST_STEPS = 4
"""A layer that has fewer steps than this is cut in smaller ones."""


def channel_step(channels: int, parts: int = 1, round_to: int = 8) -> int:
    """Of how many channels multiples are kept: `round_to`, or half of it and so on where channels are few.

    parts: how many parts of equal size must stay equal; the step is a multiple of it.
    """
    step = max(1, round_to)
    while step > 1 and (channels < FEWEST_STEPS * step or (step % parts and parts % step)):
        step //= 2
    return max(step, parts)
