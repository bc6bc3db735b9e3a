"""Budgets against what was measured: one record for each promise, and the verdict of the whole run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from .budgets.budget import Evidence
from .pages.words import NOT_MEASURED
from .report.proofs import broken_proof
from .run_record import ArtefactRecord, BudgetRecord, ParityRecord, StepRecord, TargetRecord

if TYPE_CHECKING:
    from .budgets import Budgets

Verdict = Literal["PASS", "FAIL", "INCONCLUSIVE"]


def judge(
    budgets: Budgets,
    steps: Sequence[StepRecord],
    proofs: Sequence[ParityRecord],
    targets: Sequence[TargetRecord],
    artefacts: Sequence[ArtefactRecord],
) -> tuple[list[BudgetRecord], Verdict, str]:
    """One record for each budget, the verdict, and the sentence that explains it.

    FAIL when a budget is broken or could not be measured, a proof of what is shipped is past its limit, or a device
    failed. A baseline past its limit is told, and fails only the budgets that stand on it.
    INCONCLUSIVE when nothing is broken and no device ran the model.
    A device that is not here fails only the budgets that name it.
    """
    found = Evidence(steps, targets, artefacts)
    records = [promise.record(found) for promise in budgets.promised()]
    verdict, reason = _verdict(records, proofs, targets)
    return records, verdict, reason


def _verdict(
    records: Sequence[BudgetRecord], proofs: Sequence[ParityRecord], targets: Sequence[TargetRecord]
) -> tuple[Verdict, str]:
    problems = [*_broken_budgets(records), *_broken_flow(proofs, targets)]
    notes = [
        f"The speed-up over a baseline on {target.label} is void. {broken_proof(parity)}"
        for target in targets
        for parity in target.broken_baselines
    ]
    if problems:
        return "FAIL", " ".join(map(_sentence, [*problems, *notes]))
    held = "every proof of what is shipped held" if notes else "every proof held"
    if not any(target.status == "run" for target in targets):
        return "INCONCLUSIVE", "Nothing is broken so far, but no device of the recipe could run the model."
    if not records:
        return "PASS", " ".join(
            [f"The recipe names no budgets, so nothing was promised; {held}.", *map(_sentence, notes)]
        )
    kept = "The one budget was kept" if len(records) == 1 else f"All {len(records)} budgets were kept"
    return "PASS", " ".join([f"{kept}, and {held}.", *map(_sentence, notes)])


def _broken_budgets(records: Sequence[BudgetRecord]) -> list[str]:
    """How many of the budgets are broken, and what was found of each that is."""
    broken = [record for record in records if record.verdict == "FAIL"]
    if not broken:
        return []
    return [
        f"{len(broken)} of {len(records)} budgets {'is' if len(broken) == 1 else 'are'} broken",
        *(
            f"The {record.name} was {record.reason}"
            if record.measured == NOT_MEASURED
            else f"The {record.name} is {record.measured}, the limit is {record.limit}"
            for record in broken
        ),
    ]


def _broken_flow(proofs: Sequence[ParityRecord], targets: Sequence[TargetRecord]) -> list[str]:
    """The broken proofs of what is shipped, and the devices that failed."""
    shipped_edges = [*proofs, *(t.parity for t in targets if t.parity is not None and t.parity not in proofs)]
    return [
        *(broken_proof(parity) for parity in shipped_edges if not parity.ok),
        *(
            f"The device {target.label} failed: {target.reason or 'no reason was given'}"
            for target in targets
            if target.status == "failed"
        ),
    ]


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."
