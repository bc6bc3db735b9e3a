"""`compress init`, `run` and `demo`: from a recipe to a verdict and its reports."""

from __future__ import annotations

import shlex
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import CompressError, ExitCode
from .output import VERDICT_CODES, common_options, console, print_json, quiet_stdout, say, say_lines

if TYPE_CHECKING:
    from ..pipeline.run_record import RunRecord

RECIPE_NAME = "recipe.yaml"


_resume = click.option(
    "--resume/--fresh",
    default=True,
    help="Reuse the steps that an earlier run finished in this folder, or in --store (default), or start over.",
)


@click.command()
@click.argument("path", type=click.Path(path_type=Path), default=RECIPE_NAME)
@click.option("--model", help="What model.source says: pkg.module:factory, timm:NAME, a .pt2 or .onnx file.")
@click.option("--weights", help="What model.weights says: a .safetensors or weights-only .pt file.")
@click.option("--data", help="What data.source says: pkg.module:factory, an image folder, an .npz file.")
@click.option("--force", is_flag=True, help="Overwrite an existing file.")
@common_options
def init(
    path: Path, model: str | None, weights: str | None, data: str | None, force: bool, as_json: bool
) -> None:
    """Write a commented recipe to PATH (default recipe.yaml) that can be run as it is.

    \b
    Example:
      compress init
      compress init solar.yaml --model mynets:build --weights net.safetensors --data images/
    """
    from ..pipeline.files import write_atomically
    from ..pipeline.recipe.template import DIGITS_DATA, DIGITS_MODEL, DIGITS_WEIGHTS, template

    path = path / RECIPE_NAME if path.is_dir() else path
    if path.exists() and not force:
        raise CompressError(f"{path} exists; name another file, or overwrite it with --force")
    if weights is None:
        weights = DIGITS_WEIGHTS if model is None else ""
    text = template(model or DIGITS_MODEL, weights, data or DIGITS_DATA)
    write_atomically(path, text.encode())
    then = f"compress run {shlex.quote(str(path))}"
    if as_json:
        print_json({"path": str(path), "next": then})
    else:
        say(f"wrote {path}; next: {then}")


_store = click.option(
    "--store",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of finished work that several runs share, also at the same time; default: the run's own.",
)


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option(
    "--dry-run",
    is_flag=True,
    help="Read model and data, by the functions that the recipe names, show what a run would do, and stop.",
)
@_resume
@click.option("--remeasure", is_flag=True, help="Time again also where a latency was measured before.")
@_store
@click.option(
    "-o", "--out", "folder", type=click.Path(path_type=Path), help="Folder of the run; default runs/NAME."
)
@click.option(
    "--trust-pickle",
    metavar="SHA256",
    help="Read the one weight file with this digest although it holds code.",
)
@common_options
def run(
    recipe: Path,
    dry_run: bool,
    resume: bool,
    remeasure: bool,
    store: Path | None,
    folder: Path | None,
    trust_pickle: str | None,
    as_json: bool,
) -> int:
    """Compress what RECIPE names, prove it on its devices, judge it, and leave a report.

    Passes that train use a GPU where there is one, and all the processes that torchrun starts:
    torchrun --nproc-per-node 2 -m edgepress run recipe.yaml

    Exit code 0 when every budget was kept, 3 when one was not, 4 when no device could run the model, 5 when a
    required device is not here.

    \b
    Example:
      compress run recipe.yaml
      compress run recipe.yaml --dry-run
      compress run recipe.yaml -o runs/nightly --json > run.json
      compress run other.yaml --store /data/edgepress-store
    """
    if dry_run:
        return _describe(recipe, trust_pickle, as_json)
    return _run(recipe, folder, not resume, remeasure, store, trust_pickle, as_json)


@click.command()
@_resume
@click.option(
    "-o", "--out", "folder", type=click.Path(path_type=Path), help="Folder; default runs/digits-cnn."
)
@common_options
def demo(resume: bool, folder: Path | None, as_json: bool) -> int:
    """Compress the small network that comes with the package: the whole way, on this machine.

    \b
    Example:
      compress demo
      compress demo -o /tmp/demo
    """
    from importlib.resources import files

    recipe = Path(str(files("edgepress.examples.digits") / "cnn.yaml"))
    return _run(recipe, folder, not resume, False, None, None, as_json)


def _run(
    recipe: Path,
    folder: Path | None,
    fresh: bool,
    remeasure: bool,
    store: Path | None,
    trust: str | None,
    as_json: bool,
) -> int:
    from ..pipeline.recipe.file import read_recipe
    from ..progress import for_stream

    folder = (
        folder or Path("runs") / read_recipe(recipe).name
    )  # a wrong recipe is told before torch is loaded
    from ..passes.training import parallel, serving
    from ..pipeline.run import compress

    with parallel.joined() as first:
        if not first:
            serving.serve()
            return ExitCode.PASS
        with quiet_stdout() if as_json else nullcontext():
            record = compress(
                recipe,
                folder,
                fresh=fresh,
                remeasure=remeasure,
                store=store,
                trust_pickle=trust,
                progress=for_stream(),
                command=shlex.join(["compress", *sys.argv[1:]]),
            )
    _show(record, folder, as_json)
    return VERDICT_CODES[record.verdict]


def _show(record: RunRecord, folder: Path, as_json: bool) -> None:
    from ..pipeline.report.terminal import summary

    if as_json:
        print_json(record)
        return
    console().print(summary(record))
    say(f"report:  {(folder / 'report.html').resolve()}")
    say(f"record:  {(folder / 'run.json').resolve()}")


def _describe(recipe: Path, trust: str | None, as_json: bool) -> int:
    import yaml

    from ..pipeline.recipe.file import read_recipe
    from ..pipeline.run import describe

    with quiet_stdout() if as_json else nullcontext():
        described = describe(read_recipe(recipe), recipe.resolve().parent, trust)
    if as_json:
        print_json(described)
    else:
        say_lines(yaml.safe_dump(described, sort_keys=False, allow_unicode=True, width=110).rstrip())
    return ExitCode.PASS
