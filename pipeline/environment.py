"""Environment: the machine and the versions that a number was measured with."""

from __future__ import annotations

import hashlib
import inspect
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from ..targets import runtime_packages
from ..targets.measuring.machine import cpu_model, machine_state

_PACKAGES = ("torch", "onnx", "brevitas", "numpy", "onnxscript")
"""Beside those of the targets."""


def versions() -> dict[str, str]:
    """The versions of what computes: part of every stored step's key."""
    found = {"edgepress": _own_version(), "python": platform.python_version()}
    for package in (*_PACKAGES, *runtime_packages()):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def environment() -> dict[str, Any]:
    """Versions, processor, threads and the state of the machine now."""
    state = machine_state()
    return {
        **versions(),
        "os": f"{platform.system()} {platform.release()}",
        "cpu": cpu_model(),
        "logical cores": os.cpu_count() or 0,
        "load average": state.load_average,
        "cpu governor": state.governor or "not told by this system",
    }


def code_digest(function: object = None) -> str:
    """SHA-256 of this package's source, and of the module that `function` lives in: other code, other results.

    What that module imports is not seen.
    """
    digest = hashlib.sha256()
    package = Path(__file__).resolve().parent.parent
    for folder in ("calibration", "passes", "pipeline", "targets"):
        for path in sorted((package / folder).rglob("*.py")):
            digest.update(path.read_bytes())
    for path in sorted(package.glob("*.py")):
        digest.update(path.read_bytes())
    source = inspect.getsourcefile(function) if inspect.isfunction(function) else None
    if source is not None:
        digest.update(Path(source).read_bytes())
    return digest.hexdigest()


def _own_version() -> str:
    from ..version import __version__

    return __version__
