"""Reports of a finished run, made from run.json alone: report.html, report.md and junit.xml."""

from __future__ import annotations

from pathlib import Path

from ..files import write_atomically
from ..run_record import RunRecord
from .cases import junit_xml
from .page import html_page, markdown_page


def write_reports(record: RunRecord, folder: Path) -> list[Path]:
    """Write report.html, report.md and junit.xml into `folder`, each complete or not at all; their paths."""
    reports = {
        "report.html": html_page(record),
        "report.md": markdown_page(record),
        "junit.xml": junit_xml(record),
    }
    for name, text in reports.items():
        write_atomically(folder / name, text.encode("utf-8", errors="replace"))
    return [folder / name for name in reports]
