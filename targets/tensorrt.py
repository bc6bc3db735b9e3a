"""Target `tensorrt`: full TensorRT when installed, else TensorRT for RTX, which builds without any GPU."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from ..calibration.scheme import QuantScheme
from ..errors import CompressError, DeviceUnavailableError
from ..writing import writing_whole
from .base import Artefact, BuiltOnly, Engine, Lint, TargetOptions
from .graphs.onnx_graph import OnnxGraph, load_onnx

name = "tensorrt"
scheme = QuantScheme(asymmetric=False)
saturates = False
own_float_default = False
builds_ahead = True
bakes_in_batch = True
default_device = "cuda:0"
engine_suffix = ".engine"
packages = ("tensorrt", "tensorrt_rtx")

DEFAULT_CAPABILITIES = ("SM86", "SM89")
NO_GPU = "no NVIDIA GPU here"
_MISSING = "neither tensorrt nor tensorrt_rtx is installed (pip install 'edgepress[tensorrt-rtx]')"


def library() -> Any | None:
    """The vendor module, full TensorRT first; None when neither is installed or loads."""
    for package in packages:
        try:
            return importlib.import_module(package)
        except (ImportError, OSError):  # OSError: the package is there, its shared libraries are not
            continue
    return None


def version() -> str | None:
    """Package and version, as `tensorrt_rtx 1.7.1.116`; None without one."""
    trt = library()
    return None if trt is None else f"{trt.__name__} {trt.__version__}"


def devices() -> list[str]:
    """`cuda:N` for every NVIDIA GPU that an engine can run on here."""
    if library() is None:
        return []
    import torch

    return [f"cuda:{i}" for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []


def unavailable(device: str) -> str | None:
    """Why nothing can run here, None when it can."""
    if library() is None:
        return _MISSING
    here = devices()
    if not here:
        return NO_GPU
    if device and device not in here:
        return f"no device {device!r} here, only {', '.join(here)}"
    return None


def facts(device: str) -> dict[str, str]:
    """The GPU's name and its compute capability."""
    if unavailable(device):
        return {}
    import torch

    major, minor = torch.cuda.get_device_capability(device or default_device)
    return {"name": torch.cuda.get_device_name(device or default_device), "capabilities": f"SM{major}{minor}"}


def can_build() -> str | None:
    """Why no engine can be built, None when it can: TensorRT for RTX builds for named GPUs without one."""
    trt = library()
    if trt is None:
        return _MISSING
    if not devices() and not hasattr(trt, "ComputeCapability"):
        return (
            f"{NO_GPU}, and full TensorRT builds on the GPU that it builds for; install tensorrt-rtx instead"
        )
    return None


def capabilities() -> list[str]:
    """The compute capabilities that can be built for ahead of time, as "SM86"."""
    trt = library()
    kinds = getattr(trt, "ComputeCapability", None)
    return [] if kinds is None else sorted((k for k in kinds.__members__ if k.startswith("SM")), key=_number)


def _number(capability: str) -> int:
    return int(capability[2:])


def build(onnx_path: Path, options: TargetOptions, folder: Path) -> Engine | BuiltOnly:
    """One engine file a compute capability (`model.sm86.engine`), or one for the GPU here (`model.engine`).

    Built for the named capabilities; with none named for this machine's GPU, without a GPU for SM86 and SM89.
    """
    from . import tensorrt_build as builder
    from . import tensorrt_engine as engines

    trt = library()
    if trt is None or (reason := can_build()):
        raise DeviceUnavailableError(
            f"tensorrt: {_MISSING if trt is None else reason}; see `compress doctor`"
        )
    here = devices()
    if options.device and options.device not in here:
        raise DeviceUnavailableError(f"tensorrt:{options.device}: {unavailable(options.device)}")
    named = tuple(_checked(c) for c in options.compute_capabilities)
    parsed = builder.Parsed(trt, onnx_path, options.batch)
    if here and not named:
        path = folder / "model.engine"
        engine = parsed.serialized("CURRENT" if hasattr(trt, "ComputeCapability") else None)
        with writing_whole(path):
            path.write_bytes(engine)
        return engines.TensorrtEngine(trt, path, options, parsed.settings, onnx_path)
    artefacts = []
    for capability in named or DEFAULT_CAPABILITIES:
        path = folder / f"model.{capability.lower()}.engine"
        engine = parsed.serialized(capability)
        with writing_whole(path):
            path.write_bytes(engine)
        artefacts.append(Artefact(path, f"tensorrt-engine-{capability.lower()}"))
    reason = "built ahead of time for named GPUs" if here else NO_GPU
    settings = {**parsed.settings, "compute_capabilities": list(named or DEFAULT_CAPABILITIES)}
    return BuiltOnly(reason, tuple(artefacts), settings)


def load(path: Path, options: TargetOptions) -> Engine:
    """Open an engine file on a GPU of this machine."""
    from . import tensorrt_engine as engines

    if reason := unavailable(options.device):
        raise DeviceUnavailableError(f"tensorrt: {path.name} cannot run: {reason}; see `compress doctor`")
    return engines.TensorrtEngine(library(), path, options, {})


def files(path: Path) -> list[Path]:
    """The one engine file."""
    return [path]


def _checked(capability: str) -> str:
    wanted = capability.upper().replace(".", "").replace("_", "")
    wanted = wanted if wanted.startswith("SM") else f"SM{wanted}"
    possible = capabilities()
    if wanted not in possible:
        raise CompressError(
            f"compute capability {capability!r} cannot be built for ahead of time; {version()} builds for "
            f"{', '.join(possible) or 'the GPU it runs on only'}. For other GPUs (SM87 Jetson Orin, SM90 "
            "Hopper) run the same recipe on the device itself with full TensorRT (the `tensorrt` package)"
        )
    return wanted


def lint(onnx_path: Path) -> list[Lint]:
    """What TensorRT refuses, clips or runs in float; its own parser and builder have the last word."""
    from . import tensorrt_build as builder
    from .graphs import lint_rules

    graph = OnnxGraph(load_onnx(onnx_path))
    found = lint_rules.check(graph, lint_rules.TENSORRT)
    trt = library()
    if trt is None or can_build():
        return found
    explained = {lint.node for lint in found if lint.severity == "refused"}
    try:
        parsed = builder.Parsed(trt, onnx_path)
        if not explained:
            parsed.serialized(None if devices() else DEFAULT_CAPABILITIES[0])
    except builder.RefusedError as refused:
        found += [lint for lint in refused.lints if lint.node not in explained]
    return found
