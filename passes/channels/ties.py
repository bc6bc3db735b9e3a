"""Ties: what of a network belongs to the choices of one unit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .units import Unit

NONE = -1
"""The owner of an index that stays whatever goes."""


@dataclass
class Ties:
    """What the choices of one unit own: each map holds, for every index, its choice, or NONE.

    tensors: by parameter or buffer and dimension. sizes: by module name and attribute, where the attribute says how
    many there are. reads, makes: by layer, of the input and output channels that gates stand at. norms: by norm, of
    the channels that it mixes. factors: by tensor, the rows that are multiplied by the root of what stays of the unit,
    bool. products: of an attention the channels that its two products go over: of queries with keys, and of values.
    doubt: what was taken for something else than it seemed, which is why, should the unit turn out to be no unit.
    """

    unit: Unit
    tensors: dict[tuple[str, int], Tensor] = field(default_factory=dict)
    sizes: dict[tuple[str, str], Tensor] = field(default_factory=dict)
    reads: dict[str, Tensor] = field(default_factory=dict)
    makes: dict[str, Tensor] = field(default_factory=dict)
    norms: dict[str, Tensor] = field(default_factory=dict)
    factors: dict[str, Tensor] = field(default_factory=dict)
    products: tuple[Tensor, Tensor] | None = None
    doubt: str = ""

    @property
    def makers(self) -> list[str]:
        """The unit, and the layers that make what it consists of or treat it channel by channel: all but readers."""
        owning = Counter(tensor.rpartition(".")[0] for tensor, _ in self.tensors)
        # One that reads its own channels, as on a residual, has tensors of them beside the inputs of its weight.
        return [
            self.unit.name,
            *(name for name, count in owning.items() if name not in self.reads or count > 1),
        ]

    @property
    def modules(self) -> set[str]:
        """All modules of which it owns something, by name."""
        tensors = {tensor.rpartition(".")[0] for tensor, _ in self.tensors}
        return {*tensors, *(name for name, _ in self.sizes), *self.reads, *self.makes, *self.norms}

    def within(self, scope: str) -> Ties:
        """The same of a module that all of these lie in, by the names that they have there."""
        start = len(scope) + 1 if scope else 0
        return Ties(
            self.unit,
            {(name[start:], dim): owner for (name, dim), owner in self.tensors.items()},
            {(name[start:], attribute): owner for (name, attribute), owner in self.sizes.items()},
            {name[start:]: owner for name, owner in self.reads.items()},
            {name[start:]: owner for name, owner in self.makes.items()},
            {name[start:]: owner for name, owner in self.norms.items()},
            {name[start:]: rows for name, rows in self.factors.items()},
            self.products,
            self.doubt,
        )


def own(owners: dict[Any, Tensor], key: Any, length: int, index: Tensor, choice: Tensor) -> None:
    """Note in a map of Ties whose the given indices are."""
    owners.setdefault(key, torch.full((length,), NONE))[index] = choice


def conflict(ties: Ties, earlier: Iterable[Ties]) -> tuple[str, str] | None:
    """A tensor of which an index belongs to an earlier unit too, in one dimension, and that unit; None for none."""
    for other in earlier:
        for key in ties.tensors.keys() & other.tensors.keys():
            if bool(((ties.tensors[key] != NONE) & (other.tensors[key] != NONE)).any()):
                return key[0], other.unit.name
    return None
