"""`compress history`: what the runs of each commit measured, and the commits that changed it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import CompressError
from .output import common_options, console, print_json, say, table

if TYPE_CHECKING:
    from ..pipeline.history.points import Point
    from ..pipeline.history.series import Change, Series

HISTORY_NAME = "history.jsonl"
SHOW = "show"

_file = click.option(
    "--file",
    "path",
    type=click.Path(path_type=Path),
    default=HISTORY_NAME,
    help=f"The history; default {HISTORY_NAME}.",
)


class ShowByDefault(click.Group):
    """Without a subcommand, with options or not, `show` is meant."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put `show` in front of options that are not the group's own."""
        if not args or (args[0].startswith("-") and args[0] not in ctx.help_option_names):
            args = [SHOW, *args]
        return super().parse_args(ctx, args)


@click.group(cls=ShowByDefault)
def history() -> None:
    """Follow latency, size and accuracy from commit to commit, and find the commit that changed one.

    Without a subcommand, and with the options of show, --json among them, the history is shown.

    \b
    Example:
      compress history add runs/recipe
      compress history
      compress history --device openvino:CPU --json
    """


@history.command(SHOW)
@_file
@click.option("--model", help="Only this model, by the name of its recipe.")
@click.option("--device", help='Only this device, as openvino:CPU; "file" is the exported model itself.')
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="The page to write; default: beside the history, as .html.",
)
@common_options
def show(path: Path, model: str | None, device: str | None, output: Path | None, as_json: bool) -> None:
    """Print every series with its latest value and its last change, and draw them on a page.

    \b
    Example:
      compress history show
      compress history show --file solar.jsonl --model solar-cnn -o solar.html
    """
    from ..pipeline.files import write_atomically
    from ..pipeline.history.page import history_html
    from ..pipeline.history.points import read
    from ..pipeline.history.series import series_of

    page = output or path.with_suffix(".html")
    if page.resolve() == path.resolve():
        raise CompressError(f"{page}: the page would overwrite the history; name another file with -o")
    series = series_of(_chosen(path, read(path), model, device))
    write_atomically(page, history_html(series).encode())
    if as_json:
        print_json({"page": str(page), "series": [_described(each) for each in series]})
        return
    headings = ("model", "measure", "device", "points", "latest", "95 % interval", "last change")
    console().print(table(headings, map(_row, series), numeric=(3, 4, 5)))
    say(f"page: {page.resolve()}")


@history.command()
@click.argument("run_folder", metavar="RUN", type=click.Path(path_type=Path))
@_file
@click.option(
    "--commit", help="What the run measured; default: the commit checked out here, or that of the CI job."
)
@common_options
def add(run_folder: Path, path: Path, commit: str | None, as_json: bool) -> None:
    """Add what the folder RUN, of compress run or gate, measured to the history; what it holds is not added again.

    \b
    Example:
      compress history add runs/recipe
      compress history add runs/recipe --file /srv/history.jsonl --commit abc1234
    """
    from ..pipeline.commit import current_commit
    from ..pipeline.history.gates import load_gate, points_of_gate
    from ..pipeline.history.points import append, points_of_run, untimed
    from ..pipeline.report.read import load_run

    if (run_folder / "gate.json").is_file():
        gate = load_gate(run_folder)
        commit = gate.commit if commit is None else commit
        points, left_out = points_of_gate(gate, commit, str(run_folder)), []
    else:
        commit = current_commit() if commit is None else commit
        record = load_run(run_folder)
        points, left_out = points_of_run(record, commit, str(run_folder)), untimed(record)
    added = append(path, points)
    if as_json:
        dumped = [point.model_dump(mode="json") for point in added]
        print_json(
            {"path": str(path), "added": dumped, "held": len(points) - len(added), "left_out": left_out}
        )
        return
    where = f"at {commit}" if commit else "without a commit"
    name = ", ".join(dict.fromkeys(point.model for point in points))
    held = f", {len(points) - len(added)} held already" if len(added) < len(points) else ""
    say(f"{path}: {len(added)} point{'s' * (len(added) != 1)} of {name} {where} added{held}")
    for reason in left_out:
        say(f"left out: {reason}")


def _chosen(path: Path, points: Sequence[Point], model: str | None, device: str | None) -> list[Point]:
    """The points of one model or device; CompressError when there are none, with what there is."""
    from ..pipeline.history.series import device_name

    if not points:
        raise CompressError(f"{path}: holds no points; compress history add RUN adds those of a run")
    for option, wanted, name in (
        ("--model", model, lambda point: point.model),
        ("--device", device, device_name),
    ):
        if wanted is None:
            continue
        names = sorted({name(point) for point in points})
        points = [point for point in points if name(point) == wanted]
        if not points:
            raise CompressError(f"{option} {wanted}: {path} has no such points; it has {', '.join(names)}")
    return list(points)


def _row(series: Series) -> tuple[object, ...]:
    from ..pipeline.history import series as text

    latest, last = series.latest, text.unchanged_text(series)
    if series.changes:
        change = series.changes[-1]
        last = f"{text.change_text(change)} at {text.commit_name(change.after)}"
        last += ", worse" * change.worse + ", on another machine" * change.other_machine
    return (
        latest.model,
        text.measure_name(latest),
        text.device_name(latest),
        len(series.points),
        text.value_text(latest.measure, latest.value),
        text.interval_text(latest),
        last,
    )


def _described(series: Series) -> dict[str, Any]:
    latest = series.latest
    return {
        "model": latest.model,
        "device": latest.device,
        "measure": latest.measure,
        "unit": latest.unit,
        "points": len(series.points),
        "latest": latest.model_dump(mode="json"),
        "changes": [_described_change(change) for change in series.changes],
    }


def _described_change(change: Change) -> dict[str, Any]:
    return {
        "commit_before": change.before.commit,
        "commit_after": change.after.commit,
        "at": change.after.model_dump(mode="json")["at"],
        "level_before": change.level_before,
        "level_after": change.level_after,
        "ratio": change.ratio,
        "worse": change.worse,
        "other_machine": change.other_machine,
    }
