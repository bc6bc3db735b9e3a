"""Reports of a gate, from its record alone: JUnit, Markdown for a step summary, GitHub's annotations, a page."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

from ...errors import CompressError
from ...text import one_line
from ...writing import writing
from ..files import write_atomically
from ..pages.jinja import clean, clean_markdown, page_environment
from ..pages.junit import add_case, add_outcome, junit_document
from ..record_file import write_record
from .charts import pair_ratios
from .record import GateRecord, Measure
from .verdict import subject_of

ANNOTATION = {"FAIL": "error", "INCONCLUSIVE": "warning"}


REPORTS = ("gate.json", "gate.md", "gate.html", "junit.xml")


def make_room(folder: Path) -> None:
    """Make the folder, and take away what an earlier gate left: it must not be taken for this one's."""
    if (folder / "run.json").is_file() or (folder / "profile.json").is_file():
        raise CompressError(f"{folder}: holds a run or a profile; name another folder for the gate with -o")
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name in REPORTS:
            (folder / name).unlink(missing_ok=True)


def write_reports(record: GateRecord, folder: Path) -> list[Path]:
    """Write gate.json, gate.md, gate.html and junit.xml into `folder`, each complete or not at all; their paths."""
    reports = {"gate.md": markdown(record), "gate.html": html(record), "junit.xml": junit_xml(record)}
    paths = [write_record(folder / "gate.json", record)]
    for name, text in reports.items():
        write_atomically(folder / name, text.encode("utf-8", errors="replace"))
        paths.append(folder / name)
    return paths


def junit_xml(record: GateRecord) -> str:
    """One test case a measure; one without a decision is an error, as it neither passed nor failed."""
    suite = ElementTree.Element("testsuite", name="edgepress gate")
    for measure in record.measures:
        case = add_case(suite, f"gate.{measure.name}", subject_of(measure))
        kind = {"FAIL": "failure", "INCONCLUSIVE": "error"}.get(measure.verdict)
        if kind is not None:
            add_outcome(case, kind, f"{measure.verdict}: {measure.reason}")
    return junit_document(suite, record.seconds)


def markdown(record: GateRecord) -> str:
    """A table for a step summary or a comment."""
    lines = [f"## Gate: {record.verdict}", "", clean_markdown(record.reason), ""]
    lines += ["| measure | verdict | baseline | candidate | what was found |", "|---|---|---|---|---|"]
    lines += [
        "| "
        + " | ".join(map(clean_markdown, (subject_of(m), m.verdict, m.baseline, m.candidate, m.reason)))
        + " |"
        for m in record.measures
    ]
    lines.append("")
    for device in record.devices:
        told = f"{device.label}: {device.version or device.runtime} on {device.machine}"
        lines.append(
            f"- {clean_markdown(told)}; {len(device.latency.launches) // 2} pairs of launches, interleaved"
            + (
                f", over {clean_markdown(device.latency.inputs_origin)}"
                if device.latency.inputs_origin
                else ""
            )
        )
    return "\n".join(lines) + "\n"


def github_annotations(record: GateRecord) -> list[str]:
    """GitHub workflow commands, one for each measure that does not hold."""
    return [_annotation(m) for m in record.measures if m.verdict in ANNOTATION]


def _annotation(measure: Measure) -> str:
    title = re.sub(r"[,:]", " ", _escaped(f"{measure.verdict} {subject_of(measure)}"))
    return f"::{ANNOTATION[measure.verdict]} title={title}::{_escaped(measure.reason)}"


def _escaped(text: str) -> str:
    """Escape text for GitHub's workflow commands, on one line: a new line would start another command."""
    return one_line(text).replace("%", "%25")


def html(record: GateRecord) -> str:
    """One page: the verdict, the measures, and every pair's ratio with the bounds as they closed in."""
    environment = page_environment(escape=True, finalize=clean)
    charts = {device.label: pair_ratios(device.latency, record.limits) for device in record.devices}
    return environment.get_template("gate.html").render(record=record, charts=charts, subject_of=subject_of)
