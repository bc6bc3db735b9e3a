"""What all commands share: one JSON document or tables, on standard output, and nothing else there."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ..errors import ExitCode
from ..text import hidden, one_line, tidy

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

F = TypeVar("F", bound=Callable[..., Any])

DEBUG = "edgepress.debug"
VERDICT_CODES = {"PASS": ExitCode.PASS, "FAIL": ExitCode.FAIL, "INCONCLUSIVE": ExitCode.INCONCLUSIVE}
PIPE_WIDTH = 120
"""Columns of a table that goes to a file or a pipe."""


def common_options(function: F) -> F:
    """Give a command `--json` (as `as_json`) and `--debug`."""
    as_json = click.option(
        "--json",
        "as_json",
        is_flag=True,
        help="Print one JSON document on standard output, and nothing else.",
    )
    return as_json(debug_option(function))


def debug_option(function: F) -> F:
    """Give a command or the group `--debug`: a traceback beside the message of an internal error."""
    return click.option(
        "--debug",
        is_flag=True,
        expose_value=False,
        callback=_remember_debug,
        help="Show the traceback of an internal error (also: EDGEPRESS_DEBUG=1).",
    )(function)


def _remember_debug(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    context.meta[DEBUG] = context.meta.get(DEBUG, False) or value


def debugging(context: click.Context) -> bool:
    """Whether tracebacks are wanted."""
    return bool(context.meta.get(DEBUG)) or os.environ.get("EDGEPRESS_DEBUG", "") not in ("", "0")


@contextmanager
def quiet_stdout() -> Iterator[None]:
    """While inside, what anything writes to standard output, vendor libraries too, goes to standard error."""
    sys.stdout.flush()
    saved = os.dup(1)
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)


def print_json(value: Any) -> None:
    """Print a record, or plain values, as one JSON document."""
    is_record = hasattr(value, "model_dump_json")
    text = value.model_dump_json(indent=1) if is_record else json.dumps(value, indent=1)
    click.echo(re.sub(r"[^\n -~]", _escaped_where_hidden, text))


def _escaped_where_hidden(found: re.Match[str]) -> str:
    """The same JSON with what a terminal would obey as its escape: outside ASCII, pydantic writes all as it is."""
    character = found.group()
    return json.dumps(character)[1:-1] if hidden(character) else character


def console() -> Console:
    """Standard output for tables: as wide as the terminal, or 120 columns in a pipe."""
    from rich.console import Console

    return Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)


def table(
    headings: Sequence[str], rows: Iterable[Sequence[object]], numeric: Sequence[int] = ()
) -> RenderableType:
    """A plain table; names come out of files, so that no markup or terminal code in them acts."""
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=any(headings))
    for index, heading in enumerate(headings):
        made.add_column(
            heading, header_style="dim", justify="right" if index in numeric else "left", overflow="fold"
        )
    for row in rows:
        made.add_row(*(Text(one_line(str(cell))) for cell in row))
    return made


def say(text: str) -> None:
    """Print one line of plain text on standard output, with nothing in it that a terminal obeys."""
    click.echo(one_line(text))


def say_lines(text: str) -> None:
    """Print lines of plain text on standard output, with nothing in them that a terminal obeys."""
    click.echo(tidy(text))
