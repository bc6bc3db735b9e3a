"""What every benchmark writes: the machine, the versions, a JSON record and a block of Markdown."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

RESULTS = Path(__file__).parent / "results"
WIDTH = 180  # of a table where no terminal says how wide it is


def environment(packages: Sequence[str]) -> dict[str, Any]:
    """The machine, the versions of `packages` ("not installed" included), the date and the command."""
    versions = {"python": platform.python_version()}
    for package in packages:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    command = shlex.join(["python", *map(_relative, sys.argv)])
    return {
        "machine": f"{_cpu()}, {os.cpu_count()} logical cores, {platform.system()}",
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "versions": versions,
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": command,
    }


def write(name: str, record: Mapping[str, Any], markdown: str) -> tuple[Path, Path]:
    """Write `results/NAME.json` and `results/NAME.md`; returns both paths."""
    RESULTS.mkdir(exist_ok=True)
    ignore = RESULTS / ".gitignore"
    if not ignore.exists():
        ignore.write_text("*\n")
    data, text = RESULTS / f"{name}.json", RESULTS / f"{name}.md"
    data.write_text(json.dumps(record, indent=1) + "\n")
    text.write_text(markdown)
    return data, text


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; bars in cells are escaped."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def provenance(told: Mapping[str, Any]) -> str:
    """One Markdown paragraph that says where `environment`'s numbers come from."""
    versions = ", ".join(f"{name} {value}" for name, value in told["versions"].items())
    load = "" if told["load_average"] is None else f", load at the start {told['load_average']:.1f}"
    return f"{told['machine']}{load}. {versions}. {told['date']}. Command: `{told['command']}`\n"


def wide_console() -> Console:
    """Where tables are printed: as wide as the terminal, and wide enough in a log file."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=WIDTH)


def _relative(argument: str) -> str:
    path = Path(argument)
    if path.is_absolute() and path.is_relative_to(Path.cwd()):
        return str(path.relative_to(Path.cwd()))
    return argument


def _cpu() -> str:
    """The CPU's own name where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
