"""What each runtime would do to an ONNX file: refuse it, run it in float, or clip it silently."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..targets import TARGETS
from ..targets.base import Lint
from .file_limits import within_limits
from .files import require_file
from .onnx_files.file import read_onnx


def lint_file(path: Path, runtimes: Sequence[str]) -> dict[str, list[Lint]]:
    """What each runtime finds in an ONNX file, in a process with limits of time and memory.

    CompressError when the file is not valid ONNX, as `inspect_model` says it, or when it reaches the limits.
    """
    require_file(path, "model")
    return within_limits("linting", _lint, path, tuple(runtimes))


def _lint(path: Path, runtimes: Sequence[str]) -> dict[str, list[Lint]]:
    read_onnx(path)
    return {runtime: TARGETS[runtime].lint(path) for runtime in runtimes}
