"""The JUnit file of a run: budgets, proofs and devices as test cases."""

from __future__ import annotations

from xml.etree import ElementTree

from ...text import short
from ..pages.junit import add_case, add_outcome, junit_document
from ..run_record import RunRecord
from .proofs import all_proofs, proof_text


def junit_xml(record: RunRecord) -> str:
    """One test case a budget, a proof and a device; a device that did not run is skipped, never passed."""
    suite = ElementTree.Element("testsuite", name=short(record.name or "edgepress"))
    for budget in record.budgets:
        case = add_case(suite, "budget", budget.name)
        if budget.verdict == "FAIL":
            add_outcome(case, "failure", f"measured {budget.measured}, limit {budget.limit}: {budget.reason}")
    for proof in all_proofs(record):
        case = add_case(suite, "proof", proof.edge)
        if not proof.ok:
            add_outcome(case, "failure", proof_text(proof))
    for target in record.targets:
        case = add_case(suite, "device", target.label)
        if target.status == "failed":
            add_outcome(case, "failure", target.reason or "failed")
        elif target.status != "run":
            add_outcome(case, "skipped", f"{target.status}, not run: {target.reason}".rstrip(": "))
    return junit_document(suite, record.seconds)
