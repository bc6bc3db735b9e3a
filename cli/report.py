"""`compress report`: the reports of one run again, or many runs and profiles on one page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import CompressError
from .output import common_options, console, print_json, say, table

if TYPE_CHECKING:
    from ..pipeline.comparison.collect import Cell, Comparison

PAGE_NAME = "comparison.html"


@click.command()
@click.argument("folders", metavar="FOLDER...", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option(
    "-o", "--out", "page", type=click.Path(path_type=Path), metavar="PAGE.html",
    help=f"Where the comparison goes; default {PAGE_NAME}. With it, one FOLDER gives a comparison too.",
)  # fmt: skip
@common_options
def report(folders: tuple[Path, ...], page: Path | None, as_json: bool) -> None:
    """Write the reports of one run again, or compare many runs and profiles on one page.

    With one FOLDER: its report.html, report.md and junit.xml, from its run.json alone. With several: models by
    devices, Pareto fronts and latencies, from the run.json (of `compress run`) or profile.json (of
    `compress profile -o`) in each.

    \b
    Example:
      compress report runs/recipe
      compress report runs/cnn runs/vit profiles/baseline -o models.html
    """
    if len(folders) == 1 and page is None:
        _report(folders[0], as_json)
    else:
        _compare(folders, page or Path(PAGE_NAME), as_json)


def _report(folder: Path, as_json: bool) -> None:
    from ..pipeline.report.read import load_run
    from ..pipeline.report.terminal import summary
    from ..pipeline.report.write import write_reports

    if (folder / "profile.json").is_file() and not (folder / "run.json").is_file():
        raise CompressError(
            f"{folder}: holds a profile, which has no report of its own; compare it: add -o {PAGE_NAME}"
        )
    record = load_run(folder)
    paths = write_reports(record, folder if folder.is_dir() else folder.parent)
    if as_json:
        written = [str(path) for path in paths]
        print_json({"verdict": record.verdict, "reason": record.reason, "reports": written})
        return
    console().print(summary(record))
    for path in paths:
        say(f"wrote {path}")


def _compare(folders: tuple[Path, ...], page: Path, as_json: bool) -> None:
    if page.suffix not in (".html", ".htm"):
        raise CompressError(f"{page}: a comparison is one HTML page; name it as in -o {PAGE_NAME}")
    from ..pipeline.comparison.collect import load_comparison
    from ..pipeline.comparison.page import comparison_document, comparison_page
    from ..pipeline.files import write_atomically

    comparison = load_comparison(folders)
    write_atomically(page, comparison_page(comparison).encode("utf-8", errors="replace"))
    if as_json:
        print_json({"page": str(page), **comparison_document(comparison)})
        return
    _print(comparison)
    say(f"wrote {page}")


def _print(comparison: Comparison) -> None:
    for difference in comparison.differences:
        say(f"not compared across: {difference}")
    for group in comparison.groups:
        if len(comparison.groups) > 1:
            say(f"{group.name}: {', '.join(group.sources)}")
        rows = [
            (row.name, device, *_texts(cell))
            for row in comparison.rows_of(group)
            for device, cell in row.cells.items()
        ]
        console().print(table(("model", "device", "p50 (95 % interval)", "INT8", "engine"), rows))


def _texts(cell: Cell) -> Iterator[str]:
    """Latency, or why there is none, the share in INT8 and the size."""
    from ..pipeline.pages.words import bare_ms, between, byte_size, ms

    latency = cell.latency
    if latency is None:
        yield f"{cell.words}: {cell.reason}" if cell.reason else cell.words
    else:
        low, high = map(bare_ms, latency.ci95)
        yield f"{ms(latency.p50)} ({between(low, high)})" + (
            f", cached, {latency.measured_at}" if latency.cached else ""
        )
    yield cell.int8_share
    yield byte_size(cell.engine_bytes)
