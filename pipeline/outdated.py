"""Files of an earlier run in the same folder: taken away before the next one, unless that needs them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import CompressError
from .packing.pruned_names import SIBLINGS, WEIGHTS, WIDTHS
from .packing.schedule_file import SCHEDULE
from .recipe.sections import Recipe

OUTDATED = (
    "run.json", "report.html", "report.md", "junit.xml", "packed.safetensors", "model.l2z", WEIGHTS, WIDTHS, SIBLINGS,
    SCHEDULE,
)  # fmt: skip
"""What the next run may not come to write, by name or pattern."""
REPLACED = ("float.onnx", "model.onnx")
"""What any run writes anew."""


def remove_outdated(folder: Path) -> None:
    """A failed run must not leave an older verdict behind."""
    for path in _files(folder, OUTDATED):
        path.unlink()


def require_inputs_kept(recipe: Recipe, base: Path, folder: Path) -> None:
    """CompressError where the recipe reads a file that a run in `folder` would take away or write over.

    Any text of the recipe may name one, also an argument of a factory. base: what its names are relative to.
    """
    lost = {os.path.realpath(path): path for path in _files(folder, (*OUTDATED, *REPLACED))}
    for place, text in _texts(recipe.model_dump(mode="json", exclude={"name"}), ""):
        for start in (base, Path()):  # a factory's own arguments are relative to where it runs
            with suppress(ValueError):  # no path: a zero byte
                if path := lost.get(os.path.realpath(start / text)):
                    raise CompressError(
                        f"{place}: {path} is needed, and a run in this folder takes away or replaces what an earlier"
                        f" one left there; name another folder with -o, or move the file out of {folder} first"
                    )


def _files(folder: Path, patterns: tuple[str, ...]) -> list[Path]:
    return [path for pattern in patterns for path in folder.glob(pattern)]


def _texts(value: Any, place: str) -> Iterator[tuple[str, str]]:
    """Every text with where it stands: `passes[0].teachers[0].weights`."""
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _texts(inner, f"{place}.{key}" if place else str(key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _texts(inner, f"{place}[{index}]")
