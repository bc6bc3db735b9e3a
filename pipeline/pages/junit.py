"""JUnit files, as CI services read them: suites of cases, and what became of each."""

from __future__ import annotations

from xml.etree import ElementTree

from ...text import one_line, short


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


def add_case(suite: ElementTree.Element, kind: str, name: str) -> ElementTree.Element:
    """A case of a suite, which passed as long as nothing else is said. kind: what stands for its class."""
    return ElementTree.SubElement(suite, "testcase", classname=f"edgepress.{kind}", name=short(name, 200))


def add_outcome(case: ElementTree.Element, kind: str, message: str) -> None:
    """Why a case did not pass. kind: failure, error or skipped."""
    ElementTree.SubElement(case, kind, message=one_line(message))
