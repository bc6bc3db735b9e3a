"""The choice of widths and blocks as a mixed-integer linear program, for `scipy.optimize.milp` (HiGHS).

A width is one of several binaries (MDP, arXiv 2406.12079), a block a binary that its widths add up to, so that one
that is gone has none. A piece of the cost over several units has a variable for each cell of its table, whose sums
along the axes are at most the binaries there: with these whole, exactly one cell is 1, the product of its binaries.
The cells may therefore be continuous.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, OptimizeResult, milp
from scipy.sparse import csr_array

from .pieces import Piece, WidthGrid

GAP = 1e-3  # relative, at which a solution counts as the best: far below what is known of any importance
LARGEST = 100.0  # coefficient of an objective
TIMED_OUT, INFEASIBLE = 1, 2  # of scipy's `status`


@dataclass(frozen=True)
class Choice:
    """What a program chose.

    sizes: the width of each unit that is in no block that is gone. gone: those blocks.
    gap: by how much the objective might be less, as a share of it; 0 for the best.
    """

    sizes: dict[str, int]
    gone: frozenset[str]
    gap: float


class TimedOutError(Exception):
    """The time was up before any solution was found."""


@dataclass
class _Columns:
    """The variables, and the rows of the constraints on them."""

    upper: list[float] = field(default_factory=list)
    lower: list[float] = field(default_factory=list)
    whole: list[bool] = field(default_factory=list)
    entries: list[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]] = field(default_factory=list)
    bounds: list[tuple[float, float]] = field(default_factory=list)

    def add(self, count: int, whole: bool, lower: float = 0.0, upper: float = 1.0) -> NDArray[Any]:
        """New variables."""
        first = len(self.upper)
        self.lower += [lower] * count
        self.upper += [upper] * count
        self.whole += [whole] * count
        return np.arange(first, first + count)

    def constrain(self, columns: Sequence[Any], factors: Sequence[float], low: float, high: float) -> None:
        """low <= the sum of factors times variables <= high; columns: numbers, or arrays of one factor each."""
        parts = [np.atleast_1d(column).ravel() for column in columns]
        values = np.concatenate([np.full(len(p), f) for p, f in zip(parts, factors, strict=True)])
        together = np.concatenate(parts)
        self.entries.append((np.full(len(together), len(self.bounds)), together, values))
        self.bounds.append((low, high))

    def constraints(self) -> list[LinearConstraint]:
        """All of them in one; none where the variables are free of each other, as blocks alone are."""
        if not self.entries:
            return []
        rows, columns, values = (np.concatenate(part) for part in zip(*self.entries, strict=True))
        matrix = csr_array((values, (rows, columns)), shape=(len(self.bounds), len(self.upper)))
        low, high = zip(*self.bounds, strict=True)
        return [LinearConstraint(matrix, low, high)]


class Program:
    """Widths and blocks to choose, what each does harm, and what they cost together.

    widths: of each unit those to choose from; harms: what each of them does, of the same length. blocks: the harm of
    taking each out, None where it must stay; gone: those that must not. within: unit -> the blocks that it goes with.
    """

    def __init__(
        self,
        widths: WidthGrid,
        harms: Mapping[str, Sequence[float]],
        blocks: Mapping[str, float | None],
        within: Mapping[str, frozenset[str]],
        pieces: Sequence[Piece],
        gone: frozenset[str] = frozenset(),
    ) -> None:
        self._widths, self._within, self._columns = widths, within, _Columns()
        self._presence = {frozenset[str](): self._columns.add(1, whole=False, lower=1.0)[0]}
        for name, harm in blocks.items():
            lower, upper = 1.0 if harm is None else 0.0, 0.0 if name in gone else 1.0
            column = self._columns.add(1, True, lower, upper)[0]
            self._presence[frozenset({name})] = column
        self._blocks = frozenset(blocks)
        self._sizes = {name: self._one_of(name) for name in widths}
        cells = [self._cells(piece) for piece in pieces]
        self._costs, self._harms = np.zeros((2, len(self._columns.upper)))
        for columns, piece in zip(cells, pieces, strict=True):
            np.add.at(self._costs, columns, piece.costs)
        for name, columns in self._sizes.items():
            self._harms[columns] = harms[name]
        for name, harm in blocks.items():
            self._harms[self._presence[frozenset()]] += harm or 0.0
            self._harms[self._presence[frozenset({name})]] -= harm or 0.0

    def cheapest(self, seconds: float) -> Choice:
        """What costs least, whatever harm it does. Raises TimedOutError."""
        choice = self._solve(self._costs, [], seconds)
        assert choice is not None, "every unit may have its first width"
        return choice

    def best(self, bound: float, seconds: float) -> Choice | None:
        """What does least harm and costs at most so much; None where nothing does. Raises TimedOutError."""
        scale = float(np.abs(self._costs).max(initial=0.0)) or 1.0
        constraint = LinearConstraint(csr_array(self._costs[None] / scale), -np.inf, bound / scale)
        return self._solve(self._harms, [constraint], seconds)

    def _solve(self, objective: NDArray[Any], also: list[LinearConstraint], seconds: float) -> Choice | None:
        # HiGHS also stops at an absolute gap of 1e-6; one choice is but a small part of all harm.
        scale = float(np.abs(objective).max(initial=0.0)) or 1.0
        found = milp(
            objective * (LARGEST / scale),
            integrality=np.array(self._columns.whole, int),
            bounds=Bounds(self._columns.lower, self._columns.upper),
            constraints=[*self._columns.constraints(), *also],
            options={"time_limit": seconds, "mip_rel_gap": GAP},
        )
        if found.status == INFEASIBLE:
            return None
        if found.x is None:
            if found.status != TIMED_OUT:
                raise RuntimeError(f"HiGHS: {found.message}")
            raise TimedOutError
        return self._choice(found)

    def _choice(self, found: OptimizeResult) -> Choice:
        gone = frozenset(b for b in self._blocks if found.x[self._presence[frozenset({b})]] < 0.5)
        sizes = {
            name: self._widths[name][int(found.x[columns].argmax())]
            for name, columns in self._sizes.items()
            if not self._within[name] & gone
        }
        return Choice(sizes, gone, float(found.mip_gap or 0.0))

    def _present(self, blocks: frozenset[str]) -> int:
        """The variable that is 1 where all of these blocks stay."""
        blocks &= self._blocks
        if blocks not in self._presence:
            columns, each = self._columns, [self._presence[frozenset({b})] for b in sorted(blocks)]
            both = columns.add(1, whole=False)[0]
            for one in each:
                columns.constrain([both, one], [1, -1], -np.inf, 0)
            columns.constrain([both, *each], [1, *[-1] * len(each)], 1 - len(each), np.inf)
            self._presence[blocks] = both
        return int(self._presence[blocks])

    def _one_of(self, unit: str) -> NDArray[Any]:
        """A unit's binaries, one of which is 1 where the unit is there."""
        binaries = self._columns.add(len(self._widths[unit]), whole=True)
        present = self._present(self._within[unit])
        self._columns.constrain([binaries, present], [1, -1], 0, 0)
        return binaries

    def _cells(self, piece: Piece) -> NDArray[Any]:
        """The variables of the cells of a piece's table, of its shape."""
        blocks = frozenset(piece.blocks) & self._blocks
        if not piece.units:
            return np.array(self._present(blocks))
        if len(piece.units) == 1 and blocks == self._within[piece.units[0]] & self._blocks:
            return self._sizes[piece.units[0]]
        present = self._present(blocks)
        cells = self._columns.add(piece.costs.size, whole=False).reshape(piece.costs.shape)
        self._columns.constrain([cells, present], [1, -1], 0, 0)
        for axis, unit in enumerate(piece.units):
            for layer, binary in zip(np.moveaxis(cells, axis, 0), self._sizes[unit], strict=True):
                self._columns.constrain([layer, binary], [1, -1], -np.inf, 0)
        return cells
