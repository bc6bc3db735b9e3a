"""Units: what a network can be made smaller by, each a number of equal choices of which some stay."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .kind import Kind


@dataclass(frozen=True)
class Unit:
    """Choices of one kind, each of which one gate decides.

    name: of the layer that makes the channels, of the attention, or of the block; no two units share one.
    size: how many choices. parts: a choice is one channel in each of so many equal parts (grouped convolutions).
    """

    name: str
    kind: Kind
    size: int
    parts: int = 1


Kept = Mapping[str, tuple[int, ...]]
"""The choices of each unit that stay, ascending; a unit that is not named is left whole, () takes a block out."""
Gates = Mapping[str, Tensor]
"""How open the choices of each unit are, (size,), in [0, 1]; a unit that is not named is open."""


def gates_of(kept: Kept, units: Iterable[Unit]) -> dict[str, Tensor]:
    """The gates that are 1 for what is kept, and 0 else."""
    gates = {}
    for unit in units:
        gate = torch.ones(unit.size) if unit.name not in kept else torch.zeros(unit.size)
        gate[list(kept.get(unit.name, ()))] = 1
        gates[unit.name] = gate
    return gates
