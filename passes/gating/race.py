"""Structures that compete: several answers to one target, of which the refitted networks decide.

Importances add up what each choice does alone. Many that go together do more than that, and a refitting gives back much
of it, in some layers more than in others: half of the hidden units of every block may do less harm than the few blocks
that look cheapest. So the solver is also asked for structures of which only some kinds of choices go, and all widths
are shrunk alike, the plainest structure of all; each is cut and refitted, and held-out samples say which of them is
most like the whole network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass

from torch import Tensor

from ...errors import CompressError
from ..channels.anatomy import Anatomy
from ..channels.kind import Kind
from ..channels.units import Kept, Unit, gates_of
from .cost import Cost
from .projection import widened
from .solver import TOLERANCE, Solved, Solver
from .widths import ROUNDING

SECONDS, SECONDS_OF_PARTS = 60.0, 20.0
"""The time that the solver has where everything may go, and where only some kinds may."""
PARTS: Mapping[str, Callable[[Unit], bool]] = {
    "all kinds": lambda unit: True,
    "without blocks": lambda unit: unit.kind is not Kind.BLOCK,
    "channels alone": lambda unit: unit.kind is Kind.CHANNELS,
    "blocks alone": lambda unit: unit.kind is Kind.BLOCK,
}


@dataclass(frozen=True)
class Contender:
    """A structure. name: what may go, and how it was chosen; note: what the solver has to say."""

    name: str
    kept: Kept
    note: str | None = None


def contenders(
    anatomy: Anatomy,
    importance: Mapping[str, Tensor],
    cost: Cost,
    share: float,
    round_to: int,
    least: float,
) -> list[Contender]:
    """Structures of at most this share of the cost, no two the same.

    Where none costs so little, those that are up to 1 % above, as the solver may be. Raises CompressError where its own
    with all kinds cannot be.
    """
    found: list[Contender] = []
    for contender in _each(anatomy, importance, cost, share, round_to, least):
        if all(contender.kept != other.kept for other in found):
            found.append(contender)
    limit = share * cost.whole * (1 + ROUNDING)
    return [each for each in found if float(cost.of(gates_of(each.kept, anatomy.units))) <= limit] or found


def _each(
    anatomy: Anatomy, importance: Mapping[str, Tensor], cost: Cost, share: float, round_to: int, least: float
) -> Iterator[Contender]:
    seen, pieces = list[frozenset[str]](), cost.pieces()
    for name, may_go in PARTS.items():
        units = [unit for unit in anatomy.units if may_go(unit)]
        names = frozenset(unit.name for unit in units)
        if not names or names in seen:
            continue
        seen.append(names)
        own = {unit: importance[unit] for unit in names}
        solver = Solver(anatomy, own, cost, pieces, round_to, least)
        try:
            solved = _solved(solver, cost, share, SECONDS if len(seen) == 1 else SECONDS_OF_PARTS)
        except CompressError:
            if len(seen) == 1:
                raise
            continue  # of these alone too little can go
        alike = f"{name}, shrunk alike"
        shapes = {alike if solved.gap is None else name: solved}
        if alike not in shapes and all(unit.kind is not Kind.BLOCK for unit in units):
            with suppress(CompressError):  # what the solver came to may be a little over the target
                shapes[alike] = solver.alike(share)
        for shape, each in shapes.items():
            # A solver lets go of all that does no harm: what fits comes back.
            kept = widened(each.kept, own, cost, share, units, round_to, least)
            yield Contender(shape, kept, solved.note if each is solved else None)


def _solved(solver: Solver, cost: Cost, share: float, seconds: float) -> Solved:
    """The solver's structure; where that is a little above the target, as tables may be wrong, one that is not."""
    found = solver.solve(share, seconds)
    if found.cost > share * cost.whole * (1 + ROUNDING):
        with suppress(CompressError):  # it is at its least already
            return solver.solve(share / (1 + TOLERANCE), seconds)
    return found
