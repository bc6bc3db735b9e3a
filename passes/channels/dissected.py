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
        skipped = tuple(block for block in self.sides.blocks if kept.get(block) == ())
        cut = Cut()
        for name, sides in self.sides.tensors.items():
            dims = {dim: side.kept(kept) for dim, side in enumerate(sides) if side.owned_by(kept)}
            dims = {dim: left for dim, left in dims.items() if len(left) < sides[dim].size}
            if dims and not inside(name, skipped):
                cut.tensors[name] = dims
        for (name, attribute), side in self.sides.sizes.items():
            if side.owned_by(kept) and not inside(name, skipped):
                left = len(side.kept(kept))
                values = cut.attributes.setdefault(name, {})
                values[attribute] = [left] if attribute == "normalized_shape" else left
        return Removal(cut, skipped, self._factors(kept, skipped))

    def _factors(self, kept: Kept, skipped: Iterable[str]) -> dict[str, float]:
        """By what queries are multiplied, so that their products with keys keep the scale that they had."""
        return {
            tensor: math.sqrt(len(kept[unit]) / self.anatomy.unit(unit).size)
            for unit, tensors in self.sides.factors.items()
            if unit in kept
            for tensor in tensors
            if not inside(tensor, skipped)
        }
