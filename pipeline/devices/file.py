"""devices.yaml: devices by name, each with its runtime, its settings and where it is."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ...errors import CompressError
from ...targets import TARGETS, target_of
from ...targets.base import FAKE
from ..recipe.problems import RecipeError, describe, unknown
from ..recipe.validation import validated
from ..recipe.yaml_text import FileKind, parse
from .sections import DeviceSection

DEVICES_FILE = Path("devices.yaml")
KIND = FileKind(
    "devices file",
    "a key devices: with a name for each",
    "`compress devices example` prints one to start from",
)
NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]*"
"""No colon: what is called openvino:CPU is that device of this machine, and no file can say otherwise."""

EXAMPLE = """\
# Devices by name, for `compress profile --device` and `compress gate --device`.
devices:
  here:                          # this machine's CPU, as a service with two threads would use it
    runtime: openvino
    device: CPU
    threads: 2
  kiosk:                         # measured over SSH; edgepress must be installed there, its host key known here
    runtime: openvino
    device: GPU
    ssh: { host: kiosk.local, user: measure, python: /opt/edgepress/bin/python }
  line-camera:
    runtime: tensorrt
    device: cuda:0
    mode: throughput             # as many inferences at once as the device likes
    power_mode: performance      # refused when the CPU governor says otherwise
    ssh: { host: camera.local, python: /opt/edgepress/bin/python }
  simulated:                     # no hardware: seeded noise, to try gates and workflows
    runtime: fake
    noise: { launch_sd: 0.018, spike_rate: 0.02 }
"""


def runtimes() -> list[str]:
    """What a device may name as its runtime."""
    return [*TARGETS, FAKE]


def read_devices(path: Path) -> dict[str, DeviceSection]:
    """The devices of a file by name; RecipeError with every problem found, each at its line and column."""
    document = parse(path, KIND)
    listed = document.data.get("devices")
    for key in document.data.keys() - {"devices"}:
        document.refuse((key,), unknown("key", key, ["devices"]), at_key=True)
    if not isinstance(listed, dict) or not listed:
        document.refuse(("devices",), "expected names, each with its settings indented below it")
        listed = {}
    found = {}
    for name, options in listed.items():
        location = ("devices", name)
        if not re.fullmatch(NAME, name):
            message = "expected a name of letters, digits, - _ and ., which starts with a letter or digit"
            document.refuse(location, f"{message}, got {describe(name)}", at_key=True)
            continue
        if name in TARGETS:
            document.refuse(
                location, f"{name} is a runtime, and no name for one device: choose another", at_key=True
            )
            continue
        section = validated(document, DeviceSection, options or {}, location)
        if section is None:
            continue
        if section.runtime not in runtimes():
            document.refuse((*location, "runtime"), unknown("runtime", section.runtime, runtimes()))
        elif section.compute_capabilities and (reason := why_not_ahead(section.runtime)):
            document.refuse((*location, "compute_capabilities"), reason)
        found[name] = _beside(section, path.parent)
    if document.problems:
        raise RecipeError(path, document.problems)
    return found


def _beside(section: DeviceSection, folder: Path) -> DeviceSection:
    """Paths of keys relative to the file's folder."""
    if section.ssh is None:
        return section
    keys = ("identity", "known_hosts", "config")
    paths = {key: getattr(section.ssh, key) for key in keys}
    absolute = {
        key: (folder / os.path.expanduser(value)).resolve()  # noqa: PTH111  # keeps the ~ of unknown users
        for key, value in paths.items()
        if value is not None
    }
    return section.model_copy(update={"ssh": section.ssh.model_copy(update=absolute)})


def find_devices(names: Sequence[str], file: Path | None) -> dict[str, DeviceSection]:
    """The devices that a command names: by their name in the file, or as RUNTIME[:DEVICE] of this machine.

    file None: devices.yaml of the current folder, if there is one. CompressError for a name that is neither.
    """
    path = file or (DEVICES_FILE if DEVICES_FILE.is_file() else None)
    listed = read_devices(path) if path is not None else {}
    found = {}
    for name in names:
        if name in listed:
            found[name] = listed[name]
        elif name.partition(":")[0] in runtimes():
            runtime, device = runtime_and_device(name, runtimes())
            found[name] = DeviceSection(runtime=runtime, device=device)
        else:
            where = f" in {path}" if path is not None else "; there is no devices.yaml here"
            raise CompressError(unknown("device", name.partition(":")[0], [*listed, *runtimes()]) + where)
    return found


def runtime_and_device(label: str, known: Collection[str] = TARGETS) -> tuple[str, str]:
    """`openvino:CPU` as ("openvino", "CPU"); CompressError for a runtime that there is not."""
    runtime, colon, device = label.partition(":")
    if runtime not in known:
        raise CompressError(unknown("target", runtime, known))
    if colon and not device:
        raise CompressError(f"target {label!r}: expected a device after the colon, as in openvino:CPU")
    return runtime, device


def why_not_ahead(runtime: str) -> str:
    """Why nothing can be built ahead of time for a runtime, as `compute_capabilities` asks for it; "" where it can."""
    if target_of(runtime).builds_ahead:
        return ""
    ahead = " or ".join(name for name, target in TARGETS.items() if target.builds_ahead)
    return f"only {ahead} builds ahead of time, {runtime} does not: remove this key"


def changed(section: DeviceSection, **settings: Any) -> DeviceSection:
    """The section with the settings that a command line names; those that are None stay."""
    named = {key: value for key, value in settings.items() if value is not None}
    try:
        return DeviceSection.model_validate({**section.model_dump(exclude_unset=True), **named})
    except ValidationError as error:
        raise CompressError(str(error.errors()[0]["msg"]).removeprefix("Value error, ")) from error
