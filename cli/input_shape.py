"""`--input-shape`: sizes that a file leaves open, on every command that reads one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ..errors import CompressError

if TYPE_CHECKING:
    from ..pipeline.onnx_files.inputs import GivenShapes

F = TypeVar("F", bound=Callable[..., Any])


def input_shape_option(function: F) -> F:
    """Give a command `--input-shape` (as `shapes`)."""
    return click.option(
        "--input-shape", "shapes", multiple=True, metavar="[NAME=]3x224x224",
        help="Shape of one sample, or with the batch first, where the model does not say it; once for each input.",
    )(function)  # fmt: skip


def given_shapes(texts: Sequence[str]) -> GivenShapes:
    """What the option says, by name and in order; CompressError for what is no shape, or for a name twice."""
    from ..pipeline.onnx_files.inputs import GivenShapes

    named: dict[str, tuple[int, ...]] = {}
    ordered = []
    for text in texts:
        name, separator, shape = text.rpartition("=")
        if not separator:
            ordered.append(_sizes(text, shape))
        elif name in named:
            raise CompressError(
                f"--input-shape {text!r}: {name!r} has a shape already; give one for each input"
            )
        else:
            named[name] = _sizes(text, shape)
    if named and ordered:
        raise CompressError("--input-shape: name all inputs or none, as image=3x224x224")
    return GivenShapes(named, ordered)


def _sizes(text: str, shape: str) -> tuple[int, ...]:
    parts = shape.replace(",", "x").strip("[] ").split("x")
    if not all(part.strip().isdecimal() and len(part) < 10 and int(part) > 0 for part in parts):
        raise CompressError(
            f"--input-shape {text!r}: expected whole numbers from 1, as 3x224x224 or image=1x3x224x224"
        )
    return tuple(int(part) for part in parts)
