"""How many choices of a unit may stay: what devices compute well, and not too few. And a network at such widths."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import ceil

import torch
from torch import Tensor

from ...errors import CompressError
from ..channels.kind import Kind
from ..channels.rounding import channel_step
from ..channels.units import Kept, Unit
from .cost import Cost

ROUNDING = 1e-9
"""What sums of floats may be over a limit, relative to it."""
NO_PRICE = 1e-12
"""What is counted for choices that cost nothing, relative to the whole cost."""


def step_of(unit: Unit, round_to: int) -> int:
    """How many choices are cut at once: `round_to` channels, or half of them and so on where channels are few; one head
    or block."""
    if unit.kind in (Kind.HEADS, Kind.BLOCK):
        return 1
    return channel_step(unit.size * unit.parts, unit.parts, round_to) // unit.parts


def widths_of(unit: Unit, round_to: int, least: float) -> list[int]:
    """The numbers of choices that may stay, ascending, the last one all of them.

    Multiples of `step_of`, from the share `least` on, which is never less than one step; of a block none or all.
    """
    if unit.kind is Kind.BLOCK:
        return [0, unit.size]
    step = step_of(unit, round_to)
    fewest = max(1, ceil(round(least * unit.size, 6) / step)) * step
    return [*range(fewest, unit.size, step), unit.size]


def require_reachable(target: float, cost: Cost, units: Sequence[Unit], round_to: int, least: float) -> None:
    """CompressError where even the smallest network there may be costs more than this share of the whole one."""
    scores = {unit.name: torch.zeros(unit.size) for unit in units}
    widths = Widths(units, scores, cost, round_to, least)
    widths.put_all([0] * len(units))
    if widths.cost() > target * cost.whole * (1 + ROUNDING):
        raise unreachable(target, cost, widths.cost())


def unreachable(target: float, cost: Cost, smallest: float) -> CompressError:
    """Says which share can be asked for, of a network that costs `smallest` at the least."""
    share = ceil(1000 * smallest / cost.whole) / 1000
    return CompressError(
        f"gates: target: {target:.3g} of the {cost.name} cannot be reached: with every block out that may go, and every"
        f" width at its least, {share:.3f} is left; ask for at least so much, set a smaller least or round_to, or let"
        " more of the network go (kinds, only, keep)"
    )


class Widths:
    """The units of a network, each of which keeps its best choices, and what the network then costs.

    scores: (size,) of each unit, the best ones the largest; of equal ones the first stay. numbers: of each unit how
    many choices may stay, ascending, of what is `within` alone. at: the place in there of how many do.
    """

    def __init__(
        self,
        units: Sequence[Unit],
        scores: Mapping[str, Tensor],
        cost: Cost,
        round_to: int,
        least: float,
        within: Kept | None = None,
    ) -> None:
        self.units, self._cost = units, cost
        ranked = [
            scores[unit.name].detach().cpu().double().sort(descending=True, stable=True) for unit in units
        ]
        self._order = [each.indices for each in ranked]
        most = [len((within or {}).get(unit.name, range(unit.size))) for unit in units]
        self.numbers = [
            [width for width in widths_of(unit, round_to, least) if width <= count]
            for unit, count in zip(units, most, strict=True)
        ]
        self._sums: list[list[float]] = [
            [0.0, *each.values.cumsum(0).tolist()] for each in ranked
        ]  # of so many of the best choices
        self.at = [len(each) - 1 for each in self.numbers]
        self._gates = [torch.ones(unit.size, dtype=torch.float64) for unit in units]
        self._open = [-1] * len(units)  # at which numbers the gates are
        self._costs: dict[
            tuple[int, ...], float
        ] = {}  # by numbers: searches come by the same ones again and again

    def cost(self) -> float:
        """What the network costs now."""
        now = tuple(self.at)
        if now not in self._costs:
            self._costs[now] = self._counted()
        return self._costs[now]

    def _counted(self) -> float:
        for unit, (gate, order, at) in enumerate(zip(self._gates, self._order, self.at, strict=True)):
            if at != self._open[unit]:
                count = self.numbers[unit][at]
                gate[order[:count]] = 1
                gate[order[count:]] = 0
                self._open[unit] = at
        named = {unit.name: gate for unit, gate in zip(self.units, self._gates, strict=True)}
        with torch.no_grad():
            return float(self._cost.of(named))

    def put(self, unit: int, at: int) -> None:
        """Make one unit as wide as its number `at` says."""
        self.at[unit] = at

    def put_all(self, at: Sequence[int]) -> None:
        """Make every unit as wide as its number there says."""
        self.at[:] = at

    def keep(self, kept: Kept) -> None:
        """Make every unit as wide as it is among what stays, the best choices of numbers that may."""
        for place, unit in enumerate(self.units):
            count = len(kept.get(unit.name, range(unit.size)))
            self.put(place, self.numbers[place].index(count))

    def cost_with(self, unit: int, at: int) -> float:
        """What the network would cost with one unit of another width."""
        before = self.at[unit]
        self.put(unit, at)
        cost = self.cost()
        self.put(unit, before)
        return cost

    def widen_free(self) -> None:
        """Widen every unit by as many steps as cost nothing.

        Devices that compute channels in groups take no less for a part of one. What lies in a block that is gone stays
        as narrow as it was, for the block may come back.
        """
        hidden = self._hidden()
        for unit, numbers in enumerate(self.numbers):
            most = self.cost() * (1 + ROUNDING)
            while (
                unit not in hidden
                and self.at[unit] + 1 < len(numbers)
                and self.cost_with(unit, self.at[unit] + 1) <= most
            ):
                self.put(unit, self.at[unit] + 1)

    def _hidden(self) -> set[int]:
        """The units that cost something, were it not for blocks that are gone."""
        free = [unit for unit in range(len(self.units)) if not self._costs_something(unit)]
        with self._all_blocks():
            return {unit for unit in free if self._costs_something(unit)}

    def _costs_something(self, unit: int) -> bool:
        saved = self.cost_with(unit, len(self.numbers[unit]) - 1) - self.cost_with(unit, 0)
        return saved > ROUNDING * self._cost.whole

    @contextmanager
    def _all_blocks(self) -> Iterator[None]:
        """With all blocks back while it is entered."""
        before = list(self.at)
        for place, unit in enumerate(self.units):
            if unit.kind is Kind.BLOCK:
                self.put(place, len(self.numbers[place]) - 1)
        yield
        self.put_all(before)

    def score(self, unit: int, at: int) -> float:
        """The mean over the choices that number `at` is short of the next one."""
        low, high = self.numbers[unit][at : at + 2]
        return (self._sums[unit][high] - self._sums[unit][low]) / (high - low)

    def prices(self) -> list[float]:
        """What a choice of each unit costs, on average over its widths, with the other units as they are.

        Of what lies in a block that is gone: as if that were there.
        """
        with self._all_blocks():
            return [self._price(unit) for unit in range(len(self.units))]

    def _price(self, unit: int) -> float:
        numbers = self.numbers[unit]
        saved = self.cost_with(unit, len(numbers) - 1) - self.cost_with(unit, 0)
        return max(saved / max(1, numbers[-1] - numbers[0]), NO_PRICE * self._cost.whole)

    def kept(self) -> Kept:
        """The choices that stay, of the units that lose any."""
        return {
            unit.name: tuple(sorted(order[:count].tolist()))
            for unit, order, numbers, at in zip(self.units, self._order, self.numbers, self.at, strict=True)
            if (count := numbers[at]) < unit.size
        }
