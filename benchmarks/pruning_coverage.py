"""How coverage of pruning is shown: one row an architecture, and what is left whole and why below the table."""

from __future__ import annotations

import re
from typing import Any

from reporting import markdown_table, provenance, wide_console

KINDS = ("channels", "heads", "head_size", "block")
HEADER = (
    "architecture",
    "parameters left, keeping 75 / 50 / 25 %",
    "largest error",
    "ONNX error",
    "units: channels / heads / head size / blocks",
    "left whole",
    "torch-kirigami agrees",
    "dissected in, CPU s",
    "failed",
)
_SHOWN = 3  # names of what is left whole for one reason


def cells(row: dict[str, Any]) -> list[str]:
    """The row's cells under HEADER; what was not reached is a dash."""
    removals = row.get("removals", [])
    exported = [each["export_error"] for each in removals if "export_error" in each]
    units = row.get("units")
    return [
        row["name"],
        " / ".join(f"{100 * each['params']:.0f} %" for each in removals) or "–",
        f"{max(each['error'] for each in removals):.0e}" if removals else "–",
        f"{exported[0]:.0e}" if exported else "–",
        "–" if units is None else " / ".join(str(units.get(kind, 0)) for kind in KINDS),
        str(len(row["whole"])) if "whole" in row else "–",
        _agreement(row.get("kirigami")),
        f"{row['dissect_cpu_seconds']:.1f}" if "dissect_cpu_seconds" in row else "–",
        "; ".join(failure.partition(":")[0] for failure in row["failures"]),
    ]


def _agreement(told: dict[str, Any] | None) -> str:
    """In how many layers, over all units of channels, torch-kirigami takes out the same."""
    if told is None:
        return "–"
    if "absent" in told:
        return "not installed" if told["absent"] == "not installed" else "cannot follow it"
    unfollowed = f", {len(told['unfollowed'])} units not followed" if told["unfollowed"] else ""
    return f"{told['agree']} of {told['layers']}{unfollowed}"


def reasons(row: dict[str, Any]) -> list[str]:
    """What is left whole, for each reason how many and which first; places and sizes in the reasons are left out."""
    grouped: dict[str, list[str]] = {}
    for whole in row.get("whole", []):
        plain = re.sub(r", before \S+", "", whole["reason"])
        plain = re.sub(r"without it \S+ does not run: .*", "without it a layer after it does not run", plain)
        grouped.setdefault(plain, []).append(whole["name"])
    return [
        f"{len(names)} ({', '.join(names[:_SHOWN])}{', …' if len(names) > _SHOWN else ''}): {reason}"
        for reason, names in grouped.items()
    ]


def line(row: dict[str, Any]) -> str:
    """One row as plain text, printed as soon as it is known."""
    return " | ".join([*cells(row), f"{row['seconds']:.0f} s"])


def show(rows: list[dict[str, Any]]) -> None:
    """Print the table and all failures."""
    from rich.table import Table

    table = Table(*HEADER)
    for row in rows:
        table.add_row(*cells(row))
    console = wide_console()
    console.print(table)
    for row in rows:
        for failure in row["failures"]:
            console.print(f"{row['name']}: {failure}", markup=False)


def markdown(rows: list[dict[str, Any]], told: dict[str, Any]) -> str:
    """The table, what is left whole and why, what torch-kirigami says otherwise, failures, and where it was run."""
    text = "# Pruning at random ratios\n\n" + markdown_table(HEADER, [cells(row) for row in rows])
    passed = sum(not row["failures"] for row in rows)
    text += f"\n{passed} of {len(rows)} run, are exact and export.\n"
    sections = {
        "Left whole": reasons,
        "torch-kirigami otherwise": _otherwise,
        "Failed": lambda row: row["failures"],
    }
    for title, told_of in sections.items():
        lines = [f"- {row['name']}: {each}" for row in rows for each in told_of(row)]
        text += f"\n## {title}\n\n" + "\n".join(lines or ["Nothing."]) + "\n"
    return text + "\n" + provenance(told)


def _otherwise(row: dict[str, Any]) -> list[str]:
    told = row.get("kirigami", {})
    if "absent" in told:
        return [told["absent"]]
    differ = [f"{each['unit']}: {', '.join(each['layers'][:_SHOWN])}" for each in told.get("differ", [])]
    unfollowed = [f"{each['unit']}: {each['reason']}" for each in told.get("unfollowed", [])]
    return [*differ, *unfollowed[:_SHOWN]]
