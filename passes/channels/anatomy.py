"""What of a network depends on which units: every tensor, and every layer that multiplies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import prod

import torch
from torch import Tensor

from ...macs import listed
from .units import Gates, Kept, Unit


@dataclass(frozen=True, eq=False)
class Side:
    """One dimension of a tensor, or the channels on one side of a layer.

    owners: unit -> (size,) int64, the choice of it that an index belongs to, -1 for none. An index belongs to at most
    one unit, and stays while its choice does; one that belongs to none always stays.
    """

    size: int
    owners: Mapping[str, Tensor] = field(default_factory=dict)

    def mask(self, gates: Gates) -> Tensor:
        """How open each index is, (size,)."""
        mask = torch.ones(self.size)
        for name, owner in self.owners.items():
            if name in gates:
                owned = owner.to(gates[name].device)
                mask = mask.to(owned.device)
                mask = torch.where(owned >= 0, gates[name][owned.clamp(min=0)].to(mask.dtype), mask)
        return mask

    def open(self, gates: Gates) -> Tensor:
        """How many indices are open, a scalar that gradients flow through."""
        return self.mask(gates).sum()

    def owned_by(self, units: Iterable[str]) -> bool:
        """Whether any index belongs to one of these units."""
        return not self.owners.keys().isdisjoint(units)

    def kept(self, kept: Kept) -> list[int]:
        """The indices that stay, ascending."""
        gone = torch.zeros(self.size, dtype=torch.bool)
        for name, owner in self.owners.items():
            if name in kept:
                gone |= (owner >= 0) & ~torch.isin(owner, torch.tensor(kept[name], dtype=owner.dtype))
        return (~gone).nonzero().flatten().tolist()


@dataclass(frozen=True)
class Term:
    """A count that shrinks with what stays: factor times the open indices of each side, where all blocks stay."""

    factor: float
    sides: tuple[Side, ...] = ()
    blocks: tuple[str, ...] = ()

    def of(self, gates: Gates) -> Tensor:
        """The count, a scalar that gradients flow through."""
        count = torch.tensor(float(self.factor))
        for side in self.sides:
            opened = side.open(gates)
            count = count.to(opened.device) * opened
        return count * presence(self.blocks, gates)

    @property
    def whole(self) -> float:
        """The count of the whole network."""
        return self.factor * prod(side.size for side in self.sides)


def presence(blocks: tuple[str, ...], gates: Gates) -> Tensor:
    """1 where all of the given blocks stay, 0 where any is gone; a scalar."""
    present = torch.ones(())
    for block in blocks:
        if block in gates:
            present = present.to(gates[block].device) * gates[block].sum()
    return present


@dataclass(frozen=True)
class LayerUse:
    """A layer that multiplies, or an attention's two products, as what stays decides how large it is.

    name: of the module; type: of its class, "attention" for the products. inputs, outputs: the channels that it reads
    and makes; of a depthwise convolution one and all, of an attention those of queries and of values. macs: of one
    sample. blocks: that it lies in. uncounted: operators of it whose multiply-accumulates are not known.
    """

    name: str
    type: str
    inputs: Side
    outputs: Side
    macs: tuple[Term, ...]
    blocks: tuple[str, ...] = ()
    uncounted: tuple[str, ...] = ()


@dataclass(frozen=True)
class Whole:
    """What cannot be made smaller, or is not to be, and why in words."""

    name: str
    reason: str


def nothing_of(whole: Iterable[Whole]) -> str:
    """That nothing can be removed, for these reasons, each with some of what it holds back."""
    held: dict[str, list[str]] = {}
    for each in whole:
        held.setdefault(each.reason, []).append(each.name)
    told = "; ".join(f"{listed(names)}: {reason}" for reason, names in held.items())
    none = "it has no channels between two layers, attention heads or residual blocks of the kinds asked for"
    return f"nothing can be removed: {told or none}"


@dataclass(frozen=True)
class Anatomy:
    """The units of a network and what depends on them.

    params: one term for each parameter tensor, by its name. whole: the layers that are left whole, with the reasons.
    """

    units: tuple[Unit, ...]
    params: Mapping[str, Term]
    layers: tuple[LayerUse, ...]
    whole: tuple[Whole, ...] = ()

    @property
    def uncounted(self) -> tuple[str, ...]:
        """The operators whose multiply-accumulates are not known, and are in no term."""
        return tuple(dict.fromkeys(each for layer in self.layers for each in layer.uncounted))

    @property
    def why_nothing(self) -> str:
        """Why there is nothing to make smaller, "" where there is."""
        return "" if self.units else nothing_of(self.whole)

    def unit(self, name: str) -> Unit:
        """The unit of this name."""
        return next(unit for unit in self.units if unit.name == name)
