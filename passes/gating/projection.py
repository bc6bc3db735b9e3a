"""From scores to what stays: the choices that are worth least for what they cost go, until the target is met.

A step is what one unit loses at once. Steps are ranked by what they are worth for what they save, and a first part of
that order is cut, as long as the cost demands. What a step saves depends on what else is gone: it is asked for again
where the first answer led.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from ..channels.kind import Kind
from ..channels.units import Kept, Unit
from .cost import Cost
from .widths import ROUNDING, Widths, require_reachable

TOLERANCE = 0.01
"""How far below its target the cost may end, relative to it, where whole steps can come that near."""
ROUNDS, DETOURS = 2, 16
"""How often what a step saves is asked for; and how many steps that are too large are looked at each time."""
EXCHANGES, PAIRS, FARTHEST = 8, 32, 6
"""To come near the target: how many exchanges of channels for others are made, how many pairs of units are tried for
each, and how many steps each of them moves at most."""


def project(
    scores: Mapping[str, Tensor],
    cost: Cost,
    target: float,
    units: Sequence[Unit],
    round_to: int = 8,
    least: float = 0.1,
    per_cost: bool = True,
) -> Kept:
    """What stays, of the units that lose anything, so that the cost is at most `target` times the whole one.

    It is within TOLERANCE of that, or as near as steps of `round_to` come: `shortfall` says which. Nothing goes that
    saves nothing, but in blocks that are gone. scores: (size,) of each unit, the larger the rather a choice stays.
    per_cost: they are importances, none negative, which are divided by what they cost; otherwise they are trained
    gates, which know the cost from their training, and rank as they are.
    Raises CompressError where the target cannot be met.
    """
    require_reachable(target, cost, units, round_to, least)
    widths = Widths(units, scores, cost, round_to, least)
    limit = target * cost.whole * (1 + ROUNDING)
    widths.put_all([0] * len(units))
    for _ in range(ROUNDS):
        search = _Search(widths, widths.prices(), per_cost, limit)
        search.cut()
    search.come_near()
    widths.widen_free()
    return widths.kept()


def widened(
    kept: Kept,
    scores: Mapping[str, Tensor],
    cost: Cost,
    target: float,
    units: Sequence[Unit],
    round_to: int = 8,
    least: float = 0.1,
    within: Kept | None = None,
) -> Kept:
    """What stays when a structure that ends below its target is widened by what still fits, or by exchanges.

    kept: of each unit the choices of the highest scores, which are importances; within: what may stay at most.
    """
    widths = Widths(units, scores, cost, round_to, least, within)
    widths.keep(kept)
    search = _Search(widths, widths.prices(), True, target * cost.whole * (1 + ROUNDING))
    search.fill()
    search.come_near()
    widths.widen_free()
    return widths.kept()


@dataclass(frozen=True)
class _Step:
    """From width number at + 1 of a unit to number `at`, and what it is worth for what it saves."""

    unit: int
    at: int
    worth: float


@dataclass(frozen=True)
class _Choice:
    """The steps that may be cut, in that order, and the units that stay as narrow as they were made before."""

    steps: Sequence[_Step]
    settled: Mapping[int, int]


class _Search:
    """One search for the steps to cut, at given prices of a choice of each unit."""

    def __init__(self, widths: Widths, prices: Sequence[float], per_cost: bool, limit: float) -> None:
        self.widths, self.limit, self.near = widths, limit, TOLERANCE * limit
        self.ranked: list[_Step] = []
        self.gone: list[list[float]] = []  # by unit and width number: the value of what is gone
        self.best: tuple[tuple[float, float], list[int]] = (math.inf, math.inf), widths.at
        for unit, (numbers, price) in enumerate(zip(widths.numbers, prices, strict=True)):
            gone = [0.0]
            for at in reversed(range(len(numbers) - 1)):
                score, count = widths.score(unit, at), numbers[at + 1] - numbers[at]
                self.ranked.append(_Step(unit, at, score / price if per_cost else score))
                gone.append(gone[-1] + count * score * (1 if per_cost else price))
            self.gone.append(gone[::-1])
        self.ranked.sort(key=lambda step: (step.worth, step.unit, -step.at))

    def cut(self) -> None:
        """Cut as few of the first steps as bring the cost below the limit.

        The last of them may be so large that the cost ends far below. Then either it is cut, and others before it are
        not; or it stays, and others behind it go. That which loses less is followed; of all that was seen on the way,
        the least loss near the limit is taken, or what is nearest.
        """
        choice = _Choice(self.ranked, {})
        for _ in range(DETOURS):
            count = self._fewest(choice)
            if count == 0 or self.limit - self.widths.cost() <= self.near:
                break
            last, steps = choice.steps[count - 1], choice.steps
            rest = [step for step in steps[:count] if step.unit != last.unit]
            cut = _Choice(rest, {**choice.settled, last.unit: last.at})
            rest = [step for step in steps if step.unit != last.unit or step.at > last.at]
            choice = min(cut, _Choice(rest, choice.settled), key=self._lost)
        self.widths.put_all(self.best[1])

    def fill(self) -> None:
        """Widen units until the cost is near its limit or nothing fits."""
        while self.limit - self.widths.cost() > self.near and self._widen():
            pass

    def come_near(self) -> None:
        """Widen units by steps that fit, or exchange steps, until the cost is near its limit or nothing helps."""
        for _ in range(EXCHANGES):
            if self.limit - self.widths.cost() <= self.near or not (self._widen() or self._exchange()):
                return

    def _fewest(self, choice: _Choice) -> int:
        """Cut as few of the first steps as meet the limit, which all of them do; how many that are."""
        enough, few = len(choice.steps), -1
        while enough - few > 1:
            middle = (enough + few) // 2
            self._apply(choice, middle)
            enough, few = (middle, few) if self.widths.cost() <= self.limit else (enough, middle)
        self._apply(choice, enough)
        beyond = max(0.0, self.limit - self.widths.cost() - self.near)
        self.best = min(self.best, ((beyond, self._value()), list(self.widths.at)))
        return enough

    def _value(self) -> float:
        """The value of all that is gone."""
        return sum(gone[at] for gone, at in zip(self.gone, self.widths.at, strict=True))

    def _lost(self, choice: _Choice) -> tuple[bool, float]:
        """Whether a choice must end far below the limit, and the value of all that goes; which is infinite where it
        cannot meet the limit."""
        self._apply(choice, len(choice.steps))
        if self.widths.cost() > self.limit:
            return True, math.inf
        self._apply(choice, 0)
        far = self.widths.cost() < self.limit - self.near
        self._fewest(choice)
        return far, self._value()

    def _apply(self, choice: _Choice, count: int) -> None:
        at = [len(numbers) - 1 for numbers in self.widths.numbers]
        for step in choice.steps[:count]:
            at[step.unit] = step.at
        for unit, each in choice.settled.items():
            at[unit] = each
        self.widths.put_all(at)

    def _moves(self, farthest: int) -> dict[tuple[int, int], float]:
        """What units would add to the cost at other widths up to `farthest` steps away: by unit and width number."""
        widths, now = self.widths, self.widths.cost()
        return {
            (unit, at): widths.cost_with(unit, at) - now
            for unit, numbers in enumerate(widths.numbers)
            for at in range(
                max(0, widths.at[unit] - farthest), min(len(numbers), widths.at[unit] + farthest + 1)
            )
            if at != widths.at[unit]
        }

    def _gain(self, unit: int, at: int) -> float:
        """The value that a unit of another width brings back."""
        return self.gone[unit][self.widths.at[unit]] - self.gone[unit][at]

    def _widen(self) -> bool:
        """Widen the unit that gains most among those that still fit and are not in a block that is gone."""
        left = self.limit - self.widths.cost()
        fitting = [move for move, added in self._moves(1).items() if 0 < added <= left]
        if fitting:
            self.widths.put(*max(fitting, key=lambda move: self._gain(*move)))
        return bool(fitting)

    def _exchange(self) -> bool:
        """Widen one unit and narrow another, if that comes nearer to the limit from below; whether it did.

        Of exchanges that come near, the one that gains most. Blocks stay as they were decided.
        """
        widths, left = self.widths, self.limit - self.widths.cost()
        moves = {
            move: added
            for move, added in self._moves(FARTHEST).items()
            if widths.units[move[0]].kind is not Kind.BLOCK
        }
        pairs = [
            (max(0.0, abs(then) - self.near), -self._gain(*one) - self._gain(*other), one, other)
            for one, added in moves.items()
            if added > left
            for other, saved in moves.items()
            if one[0] != other[0] and abs(then := left - added - saved) < left
        ]
        for _, _, one, other in sorted(pairs)[:PAIRS]:
            before = list(widths.at)
            widths.put(*one)
            widths.put(*other)
            if 0 <= self.limit - widths.cost() < left:
                return True
            widths.put_all(before)
        return False
