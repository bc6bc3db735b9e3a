"""What `gates` removed, as the report shows it: what it cost before and after, and what is left of every unit.

Everything is worked out of the pass's details. What is not known there is None here, and is told in words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...macs import listed
from ...text import short
from ..packing.pruned_names import WEIGHTS, sibling
from ..pages.words import UNKNOWN, count_size, is_share, metric_value, ms, percent
from ..run_record import RunRecord, StepRecord
from .details import name_in, names_in, number_in, rows_in
from .units import Total, UnitRow, UnitScale, costliest_first, scale_of, share_text, totals, unit_row
from .widths import Widths, widths

COSTS = {"params": "parameters", "macs": "multiply-accumulates", "latency": "latency"}
REASONS = 60
NAMES = 12
Z95 = 1.96
"""Standard errors on either side of a value that hold 95 % of a normal distribution."""


@dataclass(frozen=True)
class Point:
    """A network of the series. target, share: of the cost that is left; metric_error: its standard error."""

    target: float | None
    share: float | None
    cost: float | None
    params: float | None
    macs: float | None
    metric: float | None
    metric_error: float | None
    kl: float | None
    agreement: float | None
    chosen: bool


@dataclass(frozen=True)
class LeftWhole:
    """Layers that were left as they were, all for one reason."""

    reason: str
    count: int
    names: list[str]


@dataclass(frozen=True)
class Pruning:
    """One pass that removed channels, heads and blocks.

    cost: in words; whole: of the network before it. uncounted: the operators of which it is not known.
    """

    step: StepRecord
    cost: str
    unit: str
    whole: float | None
    uncounted: list[str]
    series: list[Point]
    units: list[UnitRow]
    scale: UnitScale
    totals: list[Total]
    widths: Widths
    whole_count: int
    left_whole: list[LeftWhole]

    @property
    def chosen(self) -> Point | None:
        """The network that the run went on with."""
        return next((point for point in self.series if point.chosen), None)

    @property
    def lines(self) -> list[str]:
        """All of it in few lines: cost, widths, blocks, and how much was left whole."""
        blocks = [unit.name for unit in self.units if unit.is_removed]
        found = [f"{self.cost} {self.change}", "; ".join(map(str, self.totals))]
        if blocks:
            more = f" and {len(blocks) - NAMES} more" if len(blocks) > NAMES else ""
            found.append(f"removed: {', '.join(short(name, 40) for name in blocks[:NAMES])}{more}")
        if self.whole_count:
            reasons = len(self.left_whole)
            found.append(
                f"left whole: {self.whole_count}, for {reasons} reason{'s' * (reasons != 1)} (in the report)"
            )
        return [line for line in found if line]

    def cost_text(self, value: float | None) -> str:
        """A cost with its unit: "2.11 ms", "1.24 M"; "unknown" for none."""
        if value is None:
            return UNKNOWN
        return ms(value) if self.unit == "ms" else count_size(value)

    @property
    def change(self) -> str:
        """The cost before and after, in one line."""
        chosen = self.chosen
        after = self.cost_text(chosen.cost if chosen is not None else None)
        return f"{self.cost_text(self.whole)} → {after} ({self.left}){self.partly}"

    @property
    def left(self) -> str:
        """How much of the cost is left, against what was asked for."""
        chosen = self.chosen
        if chosen is None or chosen.share is None:
            return f"share left {UNKNOWN}"
        asked = "" if chosen.target is None else f", target {share_text(chosen.target)}"
        return f"{share_text(chosen.share)} left{asked}"

    @property
    def partly(self) -> str:
        """What follows a share that is one of the countable cost alone; empty where all of it is known."""
        if not self.uncounted:
            return ""
        return f", of those that can be counted; unknown: {listed(self.uncounted)}"


def point_metric(point: Point) -> str:
    """The metric of a network of a series, with its 95 % interval where that is known: "86.28 ± 1.31 %"."""
    if point.metric is None or point.metric_error is None:
        return metric_value(point.metric)
    error = Z95 * point.metric_error
    if is_share(point.metric):
        return f"{100 * point.metric:.2f} ± {percent(error)}"
    return f"{point.metric:.4g} ± {error:.2g}"


def file_of(point: Point, pruned: Pruning, record: RunRecord) -> str:
    """The artefact that holds the weights of a network of a series, "" where none is known to.

    A later pass may have left its own in the chosen one's file; then the others of the series are not written.
    """
    last = [step for step in record.steps if step.details.get("gates")][-1]
    paths = {artefact.path for artefact in record.artefacts}
    others = {
        sibling(f"{each.target:g}") for each in pruned.series if not each.chosen and each.target is not None
    }
    if pruned.step is not last or not others or not others <= paths or point.target is None:
        return ""
    return WEIGHTS if point.chosen else sibling(f"{point.target:g}")


def pruning(step: StepRecord) -> Pruning | None:
    """What a step removed; None when it does not say that it removes anything."""
    details = step.details.get("gates")
    if not isinstance(details, dict):
        return None
    cost = name_in(details, "cost")
    units = [unit_row(row) for row in rows_in(details, "units")]
    reasons = rows_in(details, "whole")
    return Pruning(
        step=step,
        cost=COSTS.get(cost, cost),
        unit=name_in(details, "unit"),
        whole=number_in(details.get("whole_cost")),
        uncounted=[short(name) for name in names_in(details, "uncounted")],
        series=_series(rows_in(details, "series")),
        units=costliest_first(units),
        scale=scale_of(units),
        totals=totals(units),
        widths=widths(rows_in(details, "layers")),
        whole_count=len(reasons),
        left_whole=_left_whole(reasons)[:REASONS],
    )


def _series(rows: Sequence[Mapping[str, Any]]) -> list[Point]:
    """Its networks; the chosen one is that which is marked so, else the last one that was reached."""
    marked = [index for index, row in enumerate(rows) if row.get("chosen") is True] or [len(rows) - 1]
    numbers = ("target", "share", "cost", "params", "macs", "metric", "metric_error", "kl", "agreement")
    return [
        Point(**{key: number_in(row.get(key)) for key in numbers}, chosen=index == marked[0])
        for index, row in enumerate(rows)
    ]


def _left_whole(rows: Sequence[Mapping[str, Any]]) -> list[LeftWhole]:
    """By reason, those first that hold the most back."""
    names: dict[str, list[str]] = {}
    for row in rows:
        names.setdefault(str(row.get("reason") or "no reason given"), []).append(name_in(row, "name"))
    found = [LeftWhole(reason, len(held), held[:NAMES]) for reason, held in names.items()]
    return sorted(found, key=lambda group: -group.count)
