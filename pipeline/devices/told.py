"""What a device tells of itself, as keys of stored work hold it: another version there makes other measurements."""

from __future__ import annotations

import os

from ...errors import DeviceUnavailableError
from ...targets.measuring.machine import cpu_model
from .opened import opened
from .sections import DeviceSection


def machine_of(section: DeviceSection) -> str:
    """The processor beside a device of this machine; empty for one elsewhere, which would have to be asked."""
    return cpu_model() if section.here else ""


def told_by(name: str, section: DeviceSection) -> list[str]:
    """The version, capabilities and machine of a device of devices.yaml, or why it does not tell.

    name: as devices.yaml has it; of a device that is named by its runtime alone, what this machine is.
    """
    if not name:
        return [machine_of(section), str(os.cpu_count())]
    try:
        with opened({name: section}) as devices:
            facts = devices[name].facts()
    except DeviceUnavailableError as error:
        return [str(error)]
    return [str(facts.version), str(facts.capabilities), facts.machine]
