"""What dissecting a network gives: its anatomy, and what is taken out of it where only some choices stay."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from .anatomy import Anatomy
from .assembly import Sides, inside
from .removal import Removal
from .surgery import Cut
from .units import Kept


@dataclass(frozen=True)
class Dissected:
    """A network's anatomy, and what it takes to gate it and to cut it."""

    anatomy: Anatomy
    sides: Sides

    def removal(self, kept: Kept) -> Removal:
        """What is taken out of the network where only `kept` stays."""
        return removal_of(self.sides, kept)


def removal_of(sides: Sides, kept: Kept) -> Removal:
    """What is taken out of a network where only `kept` stays of the units that the sides are of."""
    skipped = tuple(block for block in sides.blocks if kept.get(block) == ())
    cut = Cut()
    for name, dimensions in sides.tensors.items():
        dims = {dim: side.kept(kept) for dim, side in enumerate(dimensions) if side.owned_by(kept)}
        dims = {dim: left for dim, left in dims.items() if len(left) < dimensions[dim].size}
        if dims and not inside(name, skipped):
            cut.tensors[name] = dims
    for (name, attribute), side in sides.sizes.items():
        if side.owned_by(kept) and not inside(name, skipped):
            left = len(side.kept(kept))
            values = cut.attributes.setdefault(name, {})
            shape = sides.shapes.get((name, attribute))
            values[attribute] = left if shape is None else [left if n == side.size else n for n in shape]
    return Removal(cut, skipped, _factors(sides, kept, skipped))


def _factors(sides: Sides, kept: Kept, skipped: Iterable[str]) -> dict[str, float | list[float]]:
    """By what queries are multiplied, so that their products with keys keep the scale that they had."""
    found: dict[str, float | list[float]] = {}
    for unit, tensors in sides.factors.items():
        for tensor, rows in tensors.items():
            if unit in kept and not inside(tensor, skipped):
                rows = rows[sides.tensors[tensor][0].kept(kept)]
                size = int(sides.products[unit][0].owners[unit].max()) + 1
                factor = math.sqrt(len(kept[unit]) / size)
                found[tensor] = (
                    factor if bool(rows.all()) else [factor if row else 1.0 for row in rows.tolist()]
                )
    return found
