"""`compress inspect` and `lint`: what a model is made of, and what a runtime would do to it."""

from __future__ import annotations

from contextlib import ExitStack, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import ExitCode
from ..text import short
from .input_shape import given_shapes, input_shape_option
from .output import common_options, console, print_json, quiet_stdout, say, table

if TYPE_CHECKING:
    from torch import Tensor

    from ..targets.base import Lint


@click.command()
@click.argument("model")
@input_shape_option
@click.option(
    "--trust-pickle", metavar="SHA256", help="Read the one file with this digest although it holds code."
)
@common_options
def inspect(model: str, shapes: tuple[str, ...], trust_pickle: str | None, as_json: bool) -> None:
    """Show the layers or tensors of MODEL, its parameters and MACs, and which passes apply: those of a recipe
    by their options there, all others by their defaults.

    MODEL is a recipe, an .onnx, .pt2, .safetensors, .l2z or .pt file, pkg.module:factory, timm:NAME or
    torchvision:NAME.

    \b
    Example:
      compress inspect recipe.yaml
      compress inspect timm:resnet18 --json
      compress inspect mynets:build --input-shape 1x32x32
    """
    from ..pipeline.inspect.run import inspect_model
    from ..pipeline.inspect.tables import print_inspection

    with quiet_stdout() if as_json else nullcontext():
        given = given_shapes(shapes)
        example = None if given else _from_data(model)
        found = inspect_model(model, example, trust_pickle, given=given)
    if as_json:
        print_json(found)
    else:
        print_inspection(found, console())


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "-t",
    "--target",
    "labels",
    multiple=True,
    metavar="RUNTIME",
    help="A runtime, as tensorrt; default: all of them.",
)
@input_shape_option
@common_options
def lint(model: Path, labels: tuple[str, ...], shapes: tuple[str, ...], as_json: bool) -> int:
    """Say what each runtime would refuse, run in float or clip silently in MODEL, an ONNX file or an .l2z
    file with one inside, and the fix.

    Exit code 0 when nothing was found, 3 when something was.

    \b
    Example:
      compress lint model.onnx --target tensorrt
      compress lint model.onnx --json
    """
    from ..pipeline.devices.file import runtime_and_device
    from ..pipeline.lint import lint_file
    from ..pipeline.onnx_files.inputs import with_shapes
    from ..pipeline.packing.as_onnx import as_onnx
    from ..targets import TARGETS

    runtimes = dict.fromkeys(runtime_and_device(label)[0] for label in labels or TARGETS)
    with ExitStack() as held, quiet_stdout() if as_json else nullcontext(), as_onnx(model) as file:
        graph = held.enter_context(with_shapes(file, given_shapes(shapes)))
        found = lint_file(graph, list(runtimes))
    clean = not any(found.values())
    if as_json:
        listed = {runtime: [asdict(problem) for problem in problems] for runtime, problems in found.items()}
        print_json({"model": str(model), "clean": clean, "targets": listed})
    else:
        _print_lint(model, found)
    return ExitCode.PASS if clean else ExitCode.FAIL


def _print_lint(model: Path, found: dict[str, list[Lint]]) -> None:
    for runtime, problems in found.items():
        if not problems:
            say(f"{runtime}: {model} is clean")
            continue
        say(f"{runtime}: {len(problems)} found in {model}")
        rows = [(short(p.node or "(graph)"), p.severity, p.problem, p.fix) for p in problems]
        console().print(table(("node", "severity", "problem", "fix"), rows))


def _from_data(model: str) -> tuple[Tensor, ...] | None:
    """The first sample of a recipe's data, where its network does not say what it takes."""
    if not model.lower().endswith((".yaml", ".yml")):
        return None
    from ..pipeline.prepare import Prepared
    from ..pipeline.recipe.file import read_recipe
    from ..progress import for_stream

    return Prepared(read_recipe(Path(model)), Path(model).resolve().parent, progress=for_stream()).example()
