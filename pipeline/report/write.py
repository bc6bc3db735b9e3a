"""Reports of a finished run, made from run.json alone: report.html, report.md and junit.xml."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from pydantic import ValidationError

from ...errors import CompressError
from ...text import one_line, short
from ..files import write_atomically
from ..record_file import NotARecordError, parsed, read_bytes, told
from ..run_files import require_own_files
from ..run_record import SCHEMA_VERSION, ParityRecord, RunRecord, require_schema

if TYPE_CHECKING:
    from rich.console import RenderableType


def write_reports(record: RunRecord, folder: Path) -> list[Path]:
    """Write report.html, report.md and junit.xml into `folder`, each complete or not at all; their paths."""
    from .page import html_page, markdown_page

    reports = {
        "report.html": html_page(record),
        "report.md": markdown_page(record),
        "junit.xml": junit_xml(record),
    }
    for name, text in reports.items():
        write_atomically(folder / name, text.encode("utf-8", errors="replace"))
    return [folder / name for name in reports]


def load_run(folder: Path) -> RunRecord:
    """The record of a run folder (or of a run.json file), which tells the truth of the files that are there.

    CompressError when it is none, cannot be read, or a file is not the one it tells of; UnsafeInputError when one of
    its paths leaves the folder.
    """
    path = folder / "run.json" if folder.is_dir() else folder
    if not folder.exists():
        raise CompressError(f"{folder}: there is no such folder; name the folder that a run wrote")
    if not path.exists():
        raise CompressError(f"{folder}: not a run folder, it holds no run.json; name one that a run wrote")
    try:
        content = parsed(read_bytes(path))
    except NotARecordError as error:
        raise CompressError(f"{path}: damaged, {error}; run the recipe again") from error
    hint = "run the recipe again, or use the edgepress that wrote it"
    require_schema(content, str(path), "the record of a run", SCHEMA_VERSION, hint)
    try:
        record = RunRecord.model_validate(content)
    except ValidationError as error:
        raise CompressError(f"{path}: not a complete record: {told(error)}") from error
    require_own_files(path.parent, record)
    return record


def all_proofs(record: RunRecord) -> list[ParityRecord]:
    """Every proof once: those of the flow, then those that only a device holds."""
    own = [proof for target in record.targets for proof in target.parities]
    return record.proofs + [proof for proof in own if proof not in record.proofs]


def proof_text(proof: ParityRecord) -> str:
    """What a proof found, and where: of its numbers those that there are."""
    from ..pages.words import known, number, percent

    parts = [f"SQNR {number(proof.sqnr_db, 1)} dB"] * known(proof.sqnr_db)
    parts += [f"same top-1 {percent(proof.top1_agreement)}"] * known(proof.top1_agreement)
    parts += [f"equal {percent(proof.agreement)}"] * known(proof.agreement)
    parts += [f"max error {proof.max_error:.3g}" if proof.max_error is not None else ""]
    text = ", ".join(filter(None, parts))
    text = "; ".join(
        filter(None, [text, f"limit {proof.limit}", f"worst: {proof.worst}" * bool(proof.worst)])
    )
    return text + (f"; first layer that differs: {proof.where}" if proof.where else "")


def junit_xml(record: RunRecord) -> str:
    """One test case a budget, a proof and a device; a device that did not run is skipped, never passed."""
    from ..judge import target_label

    suite = ElementTree.Element("testsuite", name=short(record.name or "edgepress"))
    for budget in record.budgets:
        case = _case(suite, "budget", budget.name)
        if budget.verdict == "FAIL":
            _outcome(case, "failure", f"measured {budget.measured}, limit {budget.limit}: {budget.reason}")
    for proof in all_proofs(record):
        case = _case(suite, "proof", proof.edge)
        if not proof.ok:
            _outcome(case, "failure", proof_text(proof))
    for target in record.targets:
        case = _case(suite, "device", target_label(target))
        if target.status == "failed":
            _outcome(case, "failure", target.reason or "failed")
        elif target.status != "run":
            _outcome(case, "skipped", f"{target.status}, not run: {target.reason}".rstrip(": "))
    return junit_document(suite, record.seconds)


def junit_document(suite: ElementTree.Element, seconds: float) -> str:
    """A suite, whose counts are filled in, as the whole text of a JUnit file."""
    for outcome, attribute in (("failure", "failures"), ("error", "errors"), ("skipped", "skipped")):
        suite.set(attribute, str(len(suite.findall(f"testcase/{outcome}"))))
    suite.set("tests", str(len(suite)))
    suite.set("time", f"{seconds:.1f}")
    root = ElementTree.Element("testsuites")
    root.append(suite)
    ElementTree.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ElementTree.tostring(root, encoding="unicode")}\n'


def _case(suite: ElementTree.Element, kind: str, name: str) -> ElementTree.Element:

    return ElementTree.SubElement(suite, "testcase", classname=f"edgepress.{kind}", name=short(name, 200))


def _outcome(case: ElementTree.Element, kind: str, message: str) -> None:

    ElementTree.SubElement(case, kind, message=one_line(message))


def render_terminal(record: RunRecord) -> RenderableType:
    """The summary that the command line prints at the end of a run."""
    from .terminal import summary

    return summary(record)


__all__ = ["all_proofs", "junit_document", "junit_xml", "load_run", "render_terminal", "write_reports"]
