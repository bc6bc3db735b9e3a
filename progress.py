"""Progress on long work: a bar on a terminal, plain lines elsewhere, nothing when quiet."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

T = TypeVar("T")

PLAIN_INTERVAL_S = 10.0  # a log file wants a sign of life, not a line a step


class Progress(Protocol):
    """What passes and the pipeline report to."""

    def say(self, message: str) -> None:
        """Print one line about what happens now."""

    def track(self, items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
        """Yield `items`, showing how many of `total` are done."""


class Silent:
    """Reports nothing: the default of the Python API and of the tests."""

    def say(self, message: str) -> None:
        pass

    def track(self, items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
        yield from items


class PlainLines:
    """One line at the start of a task, then one at most every ten seconds, on stderr."""

    def say(self, message: str) -> None:
        print(message, file=sys.stderr, flush=True)

    def track(self, items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
        said = time.monotonic()
        for done, item in enumerate(items):
            if time.monotonic() - said > PLAIN_INTERVAL_S:
                said = time.monotonic()
                self.say(f"  {description}: {done}" + (f" of {total}" if total else ""))
            yield item


class TerminalBars:
    """Rich progress bars on stderr."""

    def say(self, message: str) -> None:
        from rich.console import Console

        Console(stderr=True, highlight=False).print(message, markup=False)

    def track(self, items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
        from rich.console import Console
        from rich.progress import track

        yield from track(items, f"  {description}", total=total, console=Console(stderr=True), transient=True)


def for_stream(quiet: bool = False) -> Progress:
    """The progress display that suits standard error as it is now."""
    if quiet:
        return Silent()
    return TerminalBars() if sys.stderr.isatty() else PlainLines()
