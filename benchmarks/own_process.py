"""One architecture after the other, each in a process of its own, and in stages that may fail."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def in_own_process(script: str, name: str, timeout: int) -> dict[str, Any]:
    """The row that `script --only NAME --worker FILE` writes; a crash or a timeout is its failure and ends no run."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        command = [sys.executable, script, "--only", name, "--worker", str(result)]
        failure = ""
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
            if done.returncode:
                tail = " ".join(done.stderr.strip().splitlines()[-3:])
                failure = f"process: ended with code {done.returncode}: {tail[-600:]}"
        except subprocess.TimeoutExpired:
            failure = f"process: not done after {timeout} s"
        row: dict[str, Any] = json.loads(result.read_text()) if result.exists() else {"failures": []}
    row |= {"name": name, "seconds": round(time.monotonic() - started, 1)}
    row["failures"] += [failure] if failure else []
    return row


def each(
    script: str,
    sources: Mapping[str, str],
    names: Iterable[str],
    timeout: int,
    line: Callable[[dict[str, Any]], str],
    keep: Callable[[list[dict[str, Any]]], tuple[Path, ...]],
) -> tuple[list[dict[str, Any]], tuple[Path, ...]]:
    """The rows of all named networks, one after the other, and the files that they are in.

    line: tells a row; keep: writes all rows until then each time, so that an interrupted run keeps them.
    """
    rows: list[dict[str, Any]] = []
    paths: tuple[Path, ...] = ()
    for name in names:
        rows.append(in_own_process(script, name, timeout) | {"source": sources[name]})
        print(line(rows[-1]), flush=True)
        paths = keep(rows)
    return rows, paths


class Stages:
    """Runs stages that may fail: a failure is recorded, and what needs the stage is left out."""

    def __init__(self) -> None:
        self.failures: list[str] = []

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Record what goes wrong inside, by the stage's name."""
        try:
            yield
        except Exception as error:  # whatever it is, it is the result for this architecture
            self.failures.append(f"{name}: {type(error).__name__}: {' '.join(str(error).split())[:800]}")
