"""What was decided, tried out before it is removed: each unit cut alone, each reopened alone, and better exchanges.

Importances and gates are estimates of what a loss on samples tells outright. A few of its evaluations say of every unit
what it does to the network, and where channels would have been worth more.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle

from torch import Tensor

from ..channels.units import Gates, Kept, Unit, gates_of
from .cost import Cost
from .widths import ROUNDING, Widths

Loss = Callable[[Gates], float]
"""How unlike the network with these gates is to what it was, on samples that it was not trained on."""


CANDIDATES, PAYERS = 8, 3
"""How many units are tried as the wider one and as the first one to pay, and how many pay together."""


@dataclass(frozen=True)
class Effect:
    """What a unit does to the loss. harm: of the network as it was, when in it this unit alone is cut as decided;
    regain: the fall when of all that is decided it alone is left whole."""

    harm: float
    regain: float


def leave_one_out(
    before: Loss, loss: Loss, kept: Kept, units: Sequence[Unit], of: Collection[str] | None = None
) -> dict[str, Effect]:
    """The effect of every unit that loses choices, or of these.

    before: the loss of the network as it was, 0 where it is whole; loss: of the one that trained with its gates, which
    no longer does well with all of them open.
    """
    cut = loss(gates_of(kept, units))
    effects = {}
    for name in kept if of is None else of:
        choices = kept[name]
        others = {other: each for other, each in kept.items() if other != name}
        harm = before(gates_of({name: choices}, units))
        effects[name] = Effect(harm, cut - loss(gates_of(others, units)))
    return effects


@dataclass(frozen=True)
class Exchanged:
    """kept: what stays after all exchanges. losses: before them, and after each one."""

    kept: Kept
    losses: tuple[float, ...]


def exchange(
    loss: Loss,
    kept: Kept,
    effects: Mapping[str, Effect],
    scores: Mapping[str, Tensor],
    cost: Cost,
    target: float,
    units: Sequence[Unit],
    round_to: int = 8,
    least: float = 0.1,
    evaluations: int = 40,
) -> Exchanged:
    """Widen the units that would regain most for what they cost, and narrow those that harm least, one for another, as
    long as the loss falls and the cost stays within its target.

    kept: as `project` made it of the same scores, target, round_to and least. evaluations: of the loss, at most.
    """
    trial = _Trial(
        Widths(units, scores, cost, round_to, least), target * cost.whole * (1 + ROUNDING), kept, effects
    )
    losses = [loss(gates_of(kept, units))]
    pairs = trial.pairs()
    while pairs and evaluations > 1:
        before, pair = list(trial.widths.at), pairs.pop(0)
        if trial.moved(*pair):
            evaluations -= 1
            found = loss(gates_of(trial.widths.kept(), units))
            if found < losses[-1]:
                losses.append(found)
                pairs.insert(0, pair)  # and more of it
                continue
        trial.widths.put_all(before)
    return Exchanged(trial.widths.kept(), tuple(losses))


class _Trial:
    """Widths that exchanges are tried with."""

    def __init__(self, widths: Widths, limit: float, kept: Kept, effects: Mapping[str, Effect]) -> None:
        self.widths, self.limit = widths, limit
        widths.keep(kept)
        places = [place for place, unit in enumerate(widths.units) if unit.name in effects]
        now = widths.cost()
        saved = {unit: widths.cost_with(unit, len(widths.numbers[unit]) - 1) - now for unit in places}
        # What lies in a block that is gone saves nothing: there is nothing to have for it.
        self.regains = {
            unit: effects[widths.units[unit].name].regain / cost for unit, cost in saved.items() if cost > 0
        }

    def pairs(self) -> list[tuple[int, int]]:
        """A unit that is to be wider and the first one to pay for it: the most promising first, not every pair."""
        order = sorted(self.regains, key=lambda unit: self.regains[unit])
        return [
            (wider, first)
            for wider in order[::-1][:CANDIDATES]
            for first in order[:CANDIDATES]
            if self.regains[first] < self.regains[wider]
        ]

    def moved(self, wider: int, first: int) -> bool:
        """Widen a unit by a step and narrow others by steps in turn, `first` and those that regain little, until the
        cost is met again; False where that is not possible. What they paid too much widens what still fits."""
        widths = self.widths
        if not self._widened(wider):
            return False
        order = sorted(self.regains, key=lambda unit: (unit != first, self.regains[unit]))
        payers = [unit for unit in order if self.regains[unit] < self.regains[wider]][:PAYERS]
        for payer in cycle(payers):
            if widths.cost() <= self.limit:
                break
            if all(widths.at[unit] == 0 for unit in payers):
                return False
            widths.put(payer, max(0, widths.at[payer] - 1))
        for unit in sorted(self.regains, key=lambda unit: -self.regains[unit]):
            while self._widened(unit):
                if widths.cost() > self.limit:
                    widths.put(unit, widths.at[unit] - 1)
                    break
        widths.widen_free()
        return True

    def _widened(self, unit: int) -> bool:
        """Widen a unit by a step, if it is not whole."""
        more = self.widths.at[unit] + 1 < len(self.widths.numbers[unit])
        if more:
            self.widths.put(unit, self.widths.at[unit] + 1)
        return more
