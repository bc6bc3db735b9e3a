"""What a budget is: one promise of a recipe, judged by what the run measured."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar, Generic, Literal, NamedTuple, TypeVar

from ..pages.words import NOT_MEASURED

# Reading a recipe loads this folder: what only judging needs is imported where it judges, and nothing is read off
# the source, as pydantic does for docstrings of fields.
if TYPE_CHECKING:
    from ..run_record import ArtefactRecord, BudgetRecord, EngineRecord, StepRecord, TargetRecord

Subject = Literal["network", "device", "file"]
"""What a budget is about. One about a device takes a mapping from the recipe's targets to limits."""

Limit = TypeVar("Limit")


class NotMeasuredError(Exception):
    """There is no number to judge; why, in words that end in a full stop."""


class Evidence(NamedTuple):
    """What a run measured."""

    steps: Sequence[StepRecord]
    targets: Sequence[TargetRecord]
    artefacts: Sequence[ArtefactRecord]

    def on(self, device: str) -> tuple[TargetRecord, EngineRecord]:
        """The target that a budget names, and its compressed engine; NotMeasuredError where it did not run."""
        named = [target for target in self.targets if target.label == device]
        for target in named or [t for t in self.targets if t.device == device and not t.name]:
            if target.status == "run" and target.compressed is not None:
                return target, target.compressed
            why = {
                "built": "the engine was built but could not be run here",
                "unavailable": "the device is not here",
                "failed": "the device failed",
                "run": "the compressed engine left no record",
            }[target.status]
            raise NotMeasuredError(f"{why} ({target.reason})." if target.reason else f"{why}.")
        raise NotMeasuredError(f"the run has no target {device}.")


class Finding(NamedTuple):
    """What was found of one promise: the number with its unit, whether it is kept, and why."""

    measured: str
    kept: bool
    reason: str


class Budget(ABC, Generic[Limit]):
    """One promise. A kind of promise is a class, in the file that is named as its key in a recipe.

    limit: what the recipe says; device: the target that it says it of, empty unless `subject` is "device".
    """

    subject: ClassVar[Subject]

    def __init__(self, limit: Limit, device: str = "") -> None:
        self.limit, self.device = limit, device

    @abstractmethod
    def name(self, found: Evidence) -> str:
        """What was promised, as in "the NAME is 5.1 ms"."""

    @property
    @abstractmethod
    def limit_text(self) -> str:
        """The limit with its unit."""

    @abstractmethod
    def judged(self, found: Evidence) -> Finding:
        """The number against the limit; NotMeasuredError when there is none."""

    def record(self, found: Evidence) -> BudgetRecord:
        """What the report says of this promise; one that could not be measured is broken."""
        from ..run_record import BudgetRecord

        try:
            measured, kept, reason = self.judged(found)
        except NotMeasuredError as why:
            measured, kept, reason = NOT_MEASURED, False, f"{NOT_MEASURED}: {why}"
        return BudgetRecord(
            name=self.name(found),
            limit=self.limit_text,
            measured=measured,
            verdict="PASS" if kept else "FAIL",
            reason=reason,
        )


def told_apart(limit: float, measured: float, coarse: Callable[[float], str], fine: str) -> str:
    """`measured` as text, with more digits where rounding would make it look like a limit that it is not."""
    from ...calibration.metric import ROUNDING

    text = coarse(measured)
    same = text == coarse(limit) and not math.isclose(limit, measured, abs_tol=ROUNDING)
    return fine.format(measured) if same else text
