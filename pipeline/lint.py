"""What each runtime would do to an ONNX file: refuse it, run it in float, or clip it silently."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..isolated import ChildDiedError
from ..targets import TARGETS
from ..targets.base import Lint
from .file_limits import within_limits
from .files import require_file
from .onnx_files.file import read_onnx


def lint_file(path: Path, runtimes: Sequence[str]) -> dict[str, list[Lint]]:
    """What each runtime finds in an ONNX file, in processes with limits of time and memory.

    A runtime that dies of the file is a finding of that runtime. CompressError when the file is not valid ONNX, as
    `inspect_model` says it, or when reading it reaches the limits.
    """
    require_file(path, "model")
    within_limits("linting", _check, path)
    return {runtime: _found_by(runtime, path) for runtime in runtimes}


def _check(path: Path) -> None:
    read_onnx(path)


def _found_by(runtime: str, path: Path) -> list[Lint]:
    try:
        return within_limits(f"{runtime} linting", _lint, path, runtime)
    except ChildDiedError as error:
        return [
            Lint(
                "",
                "refused",
                str(error),
                f"leave out the {runtime} target, or cut the file down to what it bears",
            )
        ]


def _lint(path: Path, runtime: str) -> list[Lint]:
    return TARGETS[runtime].lint(path)
