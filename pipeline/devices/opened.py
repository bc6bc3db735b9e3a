"""Devices, opened for as long as they are measured on."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ...errors import DeviceUnavailableError
from ...isolated import Limits
from ...targets import TARGETS
from ...targets.base import FAKE
from ...targets.measuring.device import LIMITS, Device, LocalDevice
from ...targets.measuring.fake import FakeDevice
from .sections import DeviceSection


@contextmanager
def opened(
    sections: Mapping[str, DeviceSection], batch: int = 0, limits: Limits | None = None
) -> Iterator[dict[str, Device]]:
    """The devices, let go at the end; those over SSH connect when they are first asked.

    batch: what a varying one is; limits: of every process of an engine, on whichever machine it is.

    DeviceUnavailableError when one is not in the power mode that its section demands.
    """
    with ExitStack() as held:
        folder = Path(held.enter_context(tempfile.TemporaryDirectory()))
        devices = {}
        for name, section in sections.items():
            device = _device(name, section, batch, folder, limits)
            held.callback(device.close)
            _require_power_mode(name, section.power_mode, device)
            devices[name] = device
        yield devices


def require_reached(sections: Mapping[str, DeviceSection]) -> None:
    """Ask every device what it is; DeviceUnavailableError for the first that is not there, before long work begins."""
    for name, section in sections.items():
        if section.compute_capabilities:
            continue  # it is asked for engines, and not for a device
        with opened({name: section}) as devices:
            devices[name].facts()
        reason = TARGETS[section.runtime].unavailable(section.device) if section.here else None
        if reason:
            raise DeviceUnavailableError(f"{name}: {reason}; see `compress doctor`")


def folder_name(label: str) -> str:
    """A device's name as a folder: `openvino-CPU`."""
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in label)


def _device(name: str, section: DeviceSection, batch: int, folder: Path, limits: Limits | None) -> Device:
    options = section.options(batch)
    if section.runtime == FAKE:
        return FakeDevice(name, section.noise, section.seed, options, limits or LIMITS)
    if section.ssh is not None:
        from ...targets.remote.device import RemoteDevice, SshHost

        return RemoteDevice(
            name, section.runtime, options, SshHost(**section.ssh.model_dump()), limits=limits
        )
    return LocalDevice(name, section.runtime, options, folder, limits or LIMITS)


def _require_power_mode(name: str, wanted: str, device: Device) -> None:
    governor = device.facts().state.governor if wanted else wanted
    if governor != wanted:
        found = f"its CPU governor is {governor!r}" if governor else "it does not tell its CPU governor"
        raise DeviceUnavailableError(
            f"{name}: {found}, and the devices file says power_mode: {wanted}; set it there "
            f"(cpupower frequency-set -g {wanted}) before measuring, or remove power_mode"
        )
