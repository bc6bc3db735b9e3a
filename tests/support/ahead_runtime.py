"""A runtime for chips that no machine of a test has: it builds, and nothing here runs what it built."""

from __future__ import annotations

from pathlib import Path

from edgepress.targets.base import Artefact, BuiltOnly, TargetOptions
from edgepress.targets.onnxruntime import capabilities, facts, files, lint, load, own_float_default, scheme

__all__ = ["capabilities", "facts", "files", "lint", "load", "own_float_default", "scheme"]

name = "ahead"
builds_ahead = bakes_in_batch = True
saturates = False
default_device = "chip"
engine_suffix = ".bin"
packages = ()
REASON = "there is no such chip here"


def version() -> str | None:
    return "1.2"


def devices() -> list[str]:
    return []


def unavailable(device: str) -> str | None:
    return REASON


def can_build() -> str | None:
    return None


def build(onnx_path: Path, options: TargetOptions, folder: Path) -> BuiltOnly:
    """Two engines, the second twice as large as the file."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for chip, copies in (("a1", 1), ("a2", 2)):
        path = folder / f"model.{chip}.bin"
        path.write_bytes(copies * onnx_path.read_bytes())
        files.append(Artefact(path, f"ahead-engine-{chip}"))
    return BuiltOnly(REASON, tuple(files), {"chips": ["a1", "a2"]})
