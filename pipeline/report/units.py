"""Units of a pruned network as the report shows them: what each costs, what is left of it, and what its cut harms."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..pages.words import MINUS, NOT_MEASURED, UNKNOWN, percent
from .details import name_in, number_in
from .widths import Width

KINDS = {"channels": "channels", "heads": "heads", "head_size": "head size", "block": "block"}
BLOCK = KINDS["block"]
UNIT_ROWS = 16
"""Rows that are shown at once; the others are folded away."""
UNIT_LIMIT = 400
"""Most rows of a page."""


@dataclass(frozen=True)
class UnitRow:
    """What a unit costs and gives: the share of the cost that it saves when closed, and what its cut harms."""

    name: str
    kind: str
    kept: Width | None
    saves: float | None
    harm: float | None

    @property
    def is_cut(self) -> bool:
        """Whether anything of it goes; where that is not known, as if it did."""
        return self.kept is None or self.kept.changed

    @property
    def is_removed(self) -> bool:
        """Whether it is a block that is gone."""
        return self.kind == BLOCK and self.kept is not None and self.kept.changed

    @property
    def harm_text(self) -> str:
        """The loss that its cut makes with its sign, or why there is none to tell."""
        if self.harm is None:
            return NOT_MEASURED if self.is_cut else "not cut"
        return f"{self.harm:+.3g}".replace("-", MINUS) if self.harm else "0"

    @property
    def width(self) -> str:
        """What is left of it, in words."""
        if self.kept is None:
            return UNKNOWN
        if self.kind == BLOCK:
            return "removed" if self.is_cut else "stays"
        return str(self.kept)


@dataclass(frozen=True)
class UnitScale:
    """What the bars of units are drawn against: the most that one saves, and the span of harms around 0."""

    saves: float
    low: float
    high: float


@dataclass(frozen=True)
class Total:
    """All units of a kind together."""

    kind: str
    width: Width
    units: int
    cut: int

    def __str__(self) -> str:
        if self.kind == BLOCK:
            return f"{self.gone:,} of {self.width.had:,} blocks removed"
        return f"{self.kind} {self.width}, {self.cut} of {self.units} units cut"

    @property
    def gone(self) -> int:
        """How many choices are gone."""
        return self.width.had - self.width.kept


def unit_row(row: Mapping[str, Any]) -> UnitRow:
    """A unit of a pass's details."""
    kind, kept = name_in(row, "kind"), Width.of([row.get("size"), row.get("kept")])
    saves, harm = number_in(row.get("saves")), number_in(row.get("harm"))
    return UnitRow(name_in(row, "name"), KINDS.get(kind, kind), kept, saves, harm)


def costliest_first(units: Iterable[UnitRow]) -> list[UnitRow]:
    """Those that are cut before those that stay, each with what costs the most first, and what is not known last."""
    return sorted(units, key=lambda row: (not row.is_cut, row.saves is None, -(row.saves or 0)))


def scale_of(units: Iterable[UnitRow]) -> UnitScale:
    """One scale for all units."""
    rows = list(units)
    harms = [0.0, *(row.harm for row in rows if row.harm is not None)]
    saves = max((row.saves for row in rows if row.saves is not None), default=0.0)
    return UnitScale(saves, min(harms), max(harms))


def totals(units: Sequence[UnitRow]) -> list[Total]:
    """By kind, in the order in which kinds come; a kind with a unit of unknown size has no total."""
    found = []
    for kind in dict.fromkeys(unit.kind for unit in units):
        widths = [unit.kept for unit in units if unit.kind == kind]
        known = [width for width in widths if width is not None]
        if len(known) == len(widths):
            total = Width(sum(width.had for width in known), sum(width.kept for width in known))
            found.append(Total(kind, total, len(known), sum(width.changed for width in known)))
    return found


def share_text(share: float | None) -> str:
    """A share of the cost: "50.2 %"; "unknown" for none."""
    return UNKNOWN if share is None else percent(share, 1)
