"""Progress on long work: a bar on a terminal, plain lines elsewhere, nothing when quiet."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

from .text import one_line, short

T = TypeVar("T")

Status = Callable[[], str]
"""What there is to say of a task now: "loss 0.31"."""
PLAIN_INTERVAL_S = 10.0  # a log file wants a sign of life, not a line a step


class Progress(Protocol):
    """What passes and the pipeline report to."""

    def say(self, message: str) -> None:
        """Print one line about what happens now."""

    def track(
        self, items: Iterable[T], description: str, total: int | None = None, status: Status | None = None
    ) -> Iterator[T]:
        """Yield `items`, showing how many of `total` are done, the time left and what `status` says."""


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


class Silent:
    """Reports nothing: the default of the Python API and of the tests."""

    def say(self, message: str) -> None:
        pass

    def track(
        self, items: Iterable[T], description: str, total: int | None = None, status: Status | None = None
    ) -> Iterator[T]:
        yield from items


class PlainLines:
    """One line at the start of a task, then one at most every ten seconds, on stderr."""

    def say(self, message: str) -> None:
        print(one_line(message), file=sys.stderr, flush=True)

    def track(
        self, items: Iterable[T], description: str, total: int | None = None, status: Status | None = None
    ) -> Iterator[T]:
        started = said = time.monotonic()
        for done, item in enumerate(items):
            now = time.monotonic()
            if now - said > PLAIN_INTERVAL_S:
                said = now
                line = f"  {description}: {done}" + (f" of {total}" if total else "")
                if total and done:
                    line += f", {_minutes((total - done) * (now - started) / done)} left"
                self.say(line + (f", {status()}" if status else ""))
            yield item


class TerminalBars:
    """Rich progress bars on stderr."""

    def say(self, message: str) -> None:
        from rich.console import Console

        Console(stderr=True, highlight=False).print(one_line(message), markup=False)

    def track(
        self, items: Iterable[T], description: str, total: int | None = None, status: Status | None = None
    ) -> Iterator[T]:
        from rich.console import Console
        from rich.markup import escape
        from rich.progress import Progress as Bars
        from rich.progress import TextColumn

        columns = (*Bars.get_default_columns(), TextColumn("{task.fields[status]}", markup=False))
        with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
            task = bars.add_task(escape(f"  {short(description)}"), total=total, status="")
            for item in items:
                yield item
                bars.update(task, advance=1, status=one_line(status()) if status else "")


def for_stream(quiet: bool = False) -> Progress:
    """The progress display that suits standard error as it is now."""
    if quiet:
        return Silent()
    return TerminalBars() if sys.stderr.isatty() else PlainLines()
