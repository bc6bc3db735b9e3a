"""What can run and what can be built on this machine, target by target."""

from __future__ import annotations

from dataclasses import dataclass

from . import TARGETS
from .base import Target


@dataclass(frozen=True)
class Row:
    """One target. unavailable: why nothing runs on its default device; builds: what can be built."""

    runtime: str
    version: str | None
    devices: tuple[str, ...]
    unavailable: str | None
    builds: str


def doctor() -> list[Row]:
    """A row for every target, in the order of `TARGETS`."""
    return [_row(target) for target in TARGETS.values()]


def _row(target: Target) -> Row:
    return Row(
        target.name, target.version(), tuple(target.devices()), target.unavailable(""), _builds(target)
    )


def _builds(target: Target) -> str:
    if reason := target.can_build():
        return f"nothing: {reason}"
    if target.builds_ahead and (ahead := target.capabilities()):
        return f"engines ahead of time for {', '.join(ahead)}"
    return "for the devices listed" if target.devices() else "models, but no device is here to run them"
