"""Structure by a solver: the widths and blocks of least harm that a cost allows, instead of gates that learn them.

As MDP (Sun et al., CVPR 2025, arXiv 2406.12079) and LayerMerge (Kim et al., ICML 2024, arXiv 2406.12837) do, with
importances that add up and a cost that is a table over widths.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from ..channels.anatomy import Anatomy, Side
from ..channels.kind import Kind
from ..channels.units import Kept, gates_of
from .cost import Cost
from .pieces import Pieces
from .program import GAP, Choice, Program, TimedOutError
from .widths import unreachable, widths_of

MOST_WIDTHS = 8
"""Of a unit in one program, where a layer takes the square of it; further programs look between them."""
FINER = 4  # times, from one program to the next
TOLERANCE = 0.01
"""Of the target: how far above it a cost may be whose tables are not exact."""
CORRECTIONS = 8
NOTED_GAP = 2 * GAP
UNIFORM_STEPS = 50


@dataclass(frozen=True)
class Solved:
    """A structure.

    kept: the choices that stay of each unit that loses any; where a block is gone, those inside are not named.
    harm: the sum of what is dropped; a block that is gone counts by itself, not by what was in it.
    cost: exact, in the cost's unit. gap: by how much the harm might be less, as a share of it, with the widths
    that were looked at last; None where the time was up before there was any structure: all are then shrunk alike.
    timed_out: whether finer widths would have been looked at, had there been time.
    """

    kept: dict[str, tuple[int, ...]]
    harm: float
    cost: float
    gap: float | None
    timed_out: bool = False

    @property
    def note(self) -> str | None:
        """Says where the time that the solver has, and with it the machine, decided; None where it did not."""
        if self.gap is None:
            return "the solver came to no structure in its time: all widths are shrunk alike"
        if self.gap > NOTED_GAP:
            return f"the solver's time was up: what it came to may do {self.gap:.1%} more harm than need be"
        return "the solver's time was up before it had looked at all widths" if self.timed_out else None


class Solver:
    """Chooses what stays of a network.

    importance: unit -> (size,), by how much the loss rises without each choice, all on one scale; a unit that is not
    named is left whole. cost: the truth. pieces: the same as tables, by `pieces_of_terms` or `pieces_of_layers`.
    round_to, least: as in `widths_of`. within: what may stay at most, a structure that was made by the same importance.
    """

    def __init__(
        self,
        anatomy: Anatomy,
        importance: Mapping[str, Tensor],
        cost: Cost,
        pieces: Pieces,
        round_to: int = 8,
        least: float = 0.1,
        within: Kept | None = None,
    ) -> None:
        self._units, self._cost, self._pieces = anatomy.units, cost, pieces
        self._within = blocks_around(anatomy)
        self._importance = {name: values.detach().double().cpu() for name, values in importance.items()}
        self._blocks = {
            unit.name: float(self._importance[unit.name].sum()) if unit.name in importance else None
            for unit in anatomy.units
            if unit.kind is Kind.BLOCK
        }
        within = within or {}
        self._gone = frozenset(name for name in self._blocks if within.get(name) == ())
        self._allowed = {
            unit.name: [
                width
                for width in (widths_of(unit, round_to, least) if unit.name in importance else [unit.size])
                if width <= len(within.get(unit.name, range(unit.size)))
            ]
            for unit in anatomy.units
            if unit.kind is not Kind.BLOCK
        }

    def solve(self, target: float, seconds: float = 60.0) -> Solved:
        """The structure of least harm whose cost is at most this share of the whole.

        Where tables are not exact, the target is corrected by what they were wrong and the program solved again, until
        the cost is at most TOLERANCE above it. seconds: of all programs together; when they are up, the best structure
        until then is taken, which a slower machine may not have found.

        Raises CompressError when no structure costs so little, with the least share that can be reached.
        """
        deadline, limit = time.monotonic() + seconds, target * self._cost.whole
        choice = self._left({name: widths[-1] for name, widths in self._allowed.items()}, self._gone)
        best, bound, finer, corrections, timed_out = None, limit, 1, 0, False
        while corrections <= CORRECTIONS:
            # Half of what is left, so that there always is some for the next program.
            left = max(0.1, (deadline - time.monotonic()) / 2)
            try:
                choice, wrong = self._next(choice, finer, bound, left)
            except TimedOutError:
                timed_out = True
                break
            found = self._solved(choice)
            if found.cost <= limit * (1 + TOLERANCE) and (best is None or found.harm <= best.harm):
                best = found
            right = abs(wrong) <= TOLERANCE * limit
            if right and best is None:
                raise unreachable(target, self._cost, found.cost)
            if all(_stride(widths) <= finer for widths in self._allowed.values()):
                if right:
                    break
                corrections += 1
            # Tables made anew may be wrong in another way: what is over once is asked for from then on.
            bound -= max(0.0, found.cost - limit)
            finer *= FINER
        return replace(best, timed_out=timed_out) if best else self.alike(target)

    def _left(self, sizes: Mapping[str, int], gone: frozenset[str]) -> Choice:
        """These sizes, of what is in no block that is gone."""
        return Choice(
            {name: size for name, size in sizes.items() if not self._within[name] & gone}, gone, 0.0
        )

    def _next(self, now: Choice, finer: int, bound: float, seconds: float) -> tuple[Choice, float]:
        """A structure of which all costs at most `bound`, or the cheapest; and what tables that are right for the one
        now are wrong by for that one. Raises TimedOutError.

        finer: how often widths near those now are finer than those of the first program, of all sizes.
        """
        widths = {
            name: _grid(allowed, finer, now.sizes.get(name) if finer > 1 else None)
            for name, allowed in self._allowed.items()
        }
        sizes = {name: allowed[-1] for name, allowed in self._allowed.items()}
        pieces = self._pieces(widths, sizes | now.sizes)

        def told(choice: Choice) -> float:
            return sum(piece.at(widths, sizes | choice.sizes, choice.gone) for piece in pieces)

        offset = self._solved(now).cost - told(now)
        harms = {name: self._harms(name, choices) for name, choices in widths.items()}
        program = Program(widths, harms, self._blocks, self._within, pieces, self._gone)
        choice = program.best(bound - offset, seconds) or program.cheapest(seconds)
        return choice, self._solved(choice).cost - told(choice) - offset

    def _harms(self, unit: str, widths: Sequence[int]) -> list[float]:
        """What is lost with all but the most important choices, of each width."""
        if unit not in self._importance:
            return [0.0] * len(widths)
        values = self._importance[unit]
        kept = values.sort(descending=True).values.cumsum(0)
        return [float(values.sum() - kept[width - 1]) for width in widths]

    def _solved(self, choice: Choice) -> Solved:
        kept: dict[str, tuple[int, ...]] = dict.fromkeys(choice.gone, ())
        harm = sum(self._blocks[name] or 0.0 for name in choice.gone)
        for name, size in choice.sizes.items():
            if name in self._importance and size < len(self._importance[name]):
                order = self._importance[name].argsort(descending=True, stable=True)
                kept[name] = tuple(sorted(order[:size].tolist()))
                harm += self._harms(name, (size,))[0]
        cost = float(self._cost.of(gates_of(kept, self._units)))
        return Solved(kept, harm, cost, choice.gap)

    def alike(self, target: float) -> Solved:
        """The widest structure of this share of the cost with all widths shrunk alike, then with blocks taken out.

        Raises CompressError as `solve` does.
        """
        limit = target * self._cost.whole
        least = math.inf
        for choice in self._shrinking():
            found = self._solved(choice)
            if found.cost <= limit:
                return replace(found, gap=None)
            least = min(least, found.cost)
        raise unreachable(target, self._cost, least)

    def _shrinking(self) -> Iterator[Choice]:
        """From the whole network to as little as may be left, by steps."""
        sizes: dict[str, int] = {}
        for step in range(UNIFORM_STEPS, -1, -1):
            sizes = {
                name: max((w for w in allowed if w * UNIFORM_STEPS <= step * allowed[-1]), default=allowed[0])
                for name, allowed in self._allowed.items()
            }
            yield self._left(sizes, self._gone)
        harms = {name: harm for name, harm in self._blocks.items() if harm is not None}
        gone = self._gone
        for name in sorted(harms, key=harms.__getitem__):
            gone |= {name}
            yield self._left(sizes, gone)


def blocks_around(anatomy: Anatomy) -> dict[str, frozenset[str]]:
    """The blocks that each unit is gone with: those that everything of it lies in."""
    found: dict[str, frozenset[str]] = {}
    sides: list[tuple[tuple[Side, ...], tuple[str, ...]]] = [
        *((term.sides, term.blocks) for term in anatomy.params.values()),
        *(((layer.inputs, layer.outputs), layer.blocks) for layer in anatomy.layers),
    ]
    for each, blocks in sides:
        for name in {name for side in each for name in side.owners}:
            found[name] = found.get(name, frozenset(blocks)) & frozenset(blocks)
    return {unit.name: found.get(unit.name, frozenset()) for unit in anatomy.units}


def _grid(widths: Sequence[int], finer: int, near: int | None) -> list[int]:
    """Some MOST_WIDTHS of the widths, the least always among them; all where they are no more.

    near: the width next to which they lie, so often finer; None spreads them over all.
    """
    last = len(widths) - 1
    if near is None or last < MOST_WIDTHS:
        return sorted({*widths[:: _stride(widths)], widths[last]})
    stride, place = max(1, _stride(widths) // finer), widths.index(near)
    reach = MOST_WIDTHS // 2 * stride
    places = range(place - reach, place + reach + 1, stride)
    return sorted({widths[0], *(widths[min(max(one, 0), last)] for one in places)})


def _stride(widths: Sequence[int]) -> int:
    """How far apart MOST_WIDTHS are that are spread over all widths."""
    return math.ceil(len(widths) / MOST_WIDTHS)
