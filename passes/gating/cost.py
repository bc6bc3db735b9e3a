"""What a network costs with some of its choices gone: parameters, multiply-accumulates, or milliseconds on a device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from ..channels.anatomy import Anatomy, Side, Term
from ..channels.units import Gates, Unit
from .options import CostName
from .pieces import Latency, Pieces, pieces_of_layers, pieces_of_terms, price_by, width_of


class Cost(Protocol):
    """What is to become smaller. whole: of the network as it is; both are in `unit`."""

    @property
    def name(self) -> str:
        """As recipes name it."""

    @property
    def unit(self) -> str:
        """The unit in words."""

    @property
    def whole(self) -> float:
        """The cost of the whole network."""

    def of(self, gates: Gates) -> Tensor:
        """The cost of the whole network with these gates: a scalar on the CPU, float64, that gradients flow through."""

    def pieces(self) -> Pieces:
        """The same as tables over the widths of few units each, as a linear program can hold it."""


class Openness:
    """How open many sides are, and how present what lies in blocks is, all at once.

    A side's open channels are a sum over gates. Choices of one unit that count alike on every side, mostly all of them,
    are one class: what is left to do is a product of a matrix (sides, classes), however many choices there are.
    """

    def __init__(
        self, units: Sequence[Unit], sides: Sequence[Side], blocks: Sequence[tuple[str, ...]]
    ) -> None:
        self._units = units
        self._places = {id(side): place for place, side in enumerate(dict.fromkeys(sides))}
        self._blocks = {names: place for place, names in enumerate(dict.fromkeys(blocks))}
        distinct = list(dict.fromkeys(sides))
        columns, classes, found = [], [], 0
        for unit in units:
            kinds, which = torch.unique(_counts(unit, distinct), dim=1, return_inverse=True)
            columns.append(kinds)
            classes.append(which + found)
            found += kinds.shape[1]
        self._weights = torch.cat([torch.zeros(len(distinct), 0).double(), *columns], 1)
        self._classes = torch.cat([torch.zeros(0).long(), *classes])
        owned = self._weights @ self._classes.bincount(minlength=found).double()
        self._free = torch.tensor([side.size for side in distinct]).double() - owned
        self._gate_of = _block_gates(units, list(self._blocks))

    def of(self, gates: Gates) -> tuple[Tensor, Tensor]:
        """Open channels of each distinct side, and 1.0 after them; presence in each distinct tuple of blocks."""
        ones = torch.ones(1, dtype=torch.float64)
        flat = torch.cat([*(self._gate(unit, gates) for unit in self._units), ones])
        counts = torch.zeros(self._weights.shape[1], dtype=torch.float64)
        counts = counts.index_add(0, self._classes, flat[:-1])
        return torch.cat([self._free + self._weights @ counts, ones]), flat[self._gate_of].prod(1)

    def place(self, side: Side) -> int:
        """Where a side is found among the open channels."""
        return self._places[id(side)]

    def block_place(self, blocks: tuple[str, ...]) -> int:
        """Where a tuple of blocks is found among the presences."""
        return self._blocks[blocks]

    def _gate(self, unit: Unit, gates: Gates) -> Tensor:
        gate = gates.get(unit.name)
        return torch.ones(unit.size, dtype=torch.float64) if gate is None else gate.cpu().double()


def _counts(unit: Unit, sides: Sequence[Side]) -> Tensor:
    """How many channels of each side belong to each choice of a unit, (sides, size)."""
    counts = torch.zeros(len(sides), unit.size, dtype=torch.float64)
    for row, side in enumerate(sides):
        if unit.name in side.owners:
            owners = side.owners[unit.name]
            counts[row] = owners[owners >= 0].bincount(minlength=unit.size)
    return counts


def _block_gates(units: Sequence[Unit], blocks: Sequence[tuple[str, ...]]) -> Tensor:
    """The gates, of all in one row and 1.0 after them, whose product is the presence in each tuple of blocks."""
    starts, start = {}, 0
    for unit in units:
        starts[unit.name] = start
        start += unit.size
    longest = max((len(names) for names in blocks), default=0)
    rows = [[starts.get(name, start) for name in names] for names in blocks]
    return torch.tensor([row + [start] * (longest - len(row)) for row in rows], dtype=torch.int64).reshape(
        len(blocks), longest
    )


class _Counted:
    """A sum of terms."""

    def __init__(self, anatomy: Anatomy, terms: Sequence[Term]) -> None:
        self._terms = tuple(terms)
        sides = [side for term in terms for side in term.sides]
        self._openness = Openness(anatomy.units, sides, [term.blocks for term in terms])
        none = len(dict.fromkeys(sides))
        longest = max((len(term.sides) for term in terms), default=0)
        places = [[self._openness.place(side) for side in term.sides] for term in terms]
        self._sides = torch.tensor(
            [row + [none] * (longest - len(row)) for row in places], dtype=torch.int64
        ).reshape(len(terms), longest)
        self._blocks = torch.tensor([self._openness.block_place(term.blocks) for term in terms]).long()
        self._factors = torch.tensor([term.factor for term in terms], dtype=torch.float64)
        self.whole = sum(term.whole for term in terms)

    def of(self, gates: Gates) -> Tensor:
        opened, present = self._openness.of(gates)
        return (self._factors * opened[self._sides].prod(1) * present[self._blocks]).sum()

    def pieces(self) -> Pieces:
        return pieces_of_terms(self._terms)


class ParamsCost(_Counted):
    """The number of parameters."""

    name, unit = "params", "parameters"

    def __init__(self, anatomy: Anatomy) -> None:
        super().__init__(anatomy, list(anatomy.params.values()))


class MacsCost(_Counted):
    """The multiply-accumulates of one sample."""

    name, unit = "macs", "multiply-accumulates"

    def __init__(self, anatomy: Anatomy) -> None:
        super().__init__(anatomy, [term for layer in anatomy.layers for term in layer.macs])


class LatencyCost:
    """The milliseconds of one inference, by a function of the layers' widths such as a table of a device has."""

    name, unit = "latency", "ms"

    def __init__(self, anatomy: Anatomy, latency: Latency) -> None:
        self._layers, self._latency = anatomy.layers, latency
        sides = [side for layer in anatomy.layers for side in (layer.inputs, layer.outputs)]
        self._openness = Openness(anatomy.units, sides, [layer.blocks for layer in anatomy.layers])
        with torch.no_grad():
            self.whole = float(self.of({}))

    def of(self, gates: Gates) -> Tensor:
        """Milliseconds of the whole network with these gates."""
        place, block_place = self._openness.place, self._openness.block_place
        opened, present = (each.unbind() for each in self._openness.of(gates))
        widths = {
            layer.name: (
                width_of(layer.inputs, opened[place(layer.inputs)]),
                width_of(layer.outputs, opened[place(layer.outputs)]),
                present[block_place(layer.blocks)],
            )
            for layer in self._layers
        }
        return self._latency(widths).cpu().double()

    def pieces(self) -> Pieces:
        """Each layer's share of the milliseconds, over the widths of the units on its two sides."""
        return pieces_of_layers(self._layers, price_by(self._latency))


def cost_of(name: CostName, anatomy: Anatomy, latency: Latency | None = None) -> Cost:
    """The cost of a name that options have. latency: what cost: latency needs."""
    if name == "params":
        return ParamsCost(anatomy)
    if name == "macs":
        return MacsCost(anatomy)
    assert latency is not None
    return LatencyCost(anatomy, latency)
