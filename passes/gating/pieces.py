"""A network's cost as a sum of pieces, each a table over the widths of few units: what a linear program can hold."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...calibration.latency_table import UNKNOWN
from ..channels.anatomy import LayerUse, Side, Term

WidthGrid = Mapping[str, Sequence[int]]
"""Of each unit of several choices the widths to choose from."""
Sizes = Mapping[str, int]
"""Of each unit of several choices how many of them stay."""


@dataclass(frozen=True, eq=False)
class Piece:
    """A part of the cost that depends on few units, and is nothing where one of its blocks is gone.

    units: sorted, each once. costs: one axis for each unit, along the widths to choose from.
    """

    units: tuple[str, ...]
    blocks: tuple[str, ...]
    costs: NDArray[Any]

    def at(self, widths: WidthGrid, sizes: Sizes, gone: frozenset[str]) -> float:
        """What it costs at these sizes, which are among the widths that it was made for, without those blocks."""
        if gone & set(self.blocks):
            return 0.0
        return float(self.costs[tuple(widths[unit].index(sizes[unit]) for unit in self.units)])


Pieces = Callable[[WidthGrid, Sizes], list[Piece]]
"""The cost over these widths; where it is no sum of small tables, as it is near these sizes."""
Latency = Callable[[Mapping[str, tuple[Tensor, Tensor, Tensor]]], Tensor]
"""Milliseconds, a scalar that gradients flow through, of layers by name: channels read, channels made, presence."""
LayerPrice = Callable[[LayerUse, Tensor, Tensor], Tensor]
"""What a layer that is there costs, elementwise, with so many inputs and outputs open."""
_Monomial = tuple[tuple[str, ...], list[int], float]
"""Units, the power of each one's width, and the factor of their product."""


def pieces_of_terms(terms: Iterable[Term]) -> Pieces:
    """Of a count: exact, as a product of sums over units is a sum of their products."""
    return partial(_terms, [(term.blocks, list(_monomials(term))) for term in terms])


def pieces_of_layers(layers: Iterable[LayerUse], price: LayerPrice) -> Pieces:
    """Of a cost that each layer has of its own.

    Exact for layers of at most two units. Where more have a share in a layer (a concatenation), each of them changes
    its cost as it would alone, near the given sizes; jointly with the unit that owns the other side by itself.
    """
    return partial(_layers, tuple(layers), price)


def price_by(latency: Latency) -> LayerPrice:
    """What a function of many layers' widths, as a device's table is, says of one."""

    def price(layer: LayerUse, inputs: Tensor, outputs: Tensor) -> Tensor:
        inputs, outputs = width_of(layer.inputs, inputs), width_of(layer.outputs, outputs)
        there, gone = inputs.new_ones(()), inputs.new_zeros(())
        return torch.stack(
            [
                latency({layer.name: (*widths, there)}) - latency({layer.name: (*widths, gone)})
                for widths in zip(inputs, outputs, strict=True)
            ]
        )

    return price


def width_of(side: Side, opened: Tensor) -> Tensor:
    """The open channels of a side as a table of latencies takes them."""
    return opened if side.size else torch.full_like(opened, UNKNOWN)


def shares(side: Side) -> dict[str, float]:
    """The indices of a side that one choice of each unit owns; under "" those that no unit owns."""
    found = {"": float(side.size)}
    for name, owner in side.owners.items():
        owned = owner[owner >= 0]
        if len(owned):
            found[name] = len(owned) / len(set(owned.tolist()))
            found[""] -= len(owned)
    return found


def _monomials(term: Term) -> Iterator[_Monomial]:
    polynomial: dict[tuple[str, ...], float] = {(): term.factor}
    for side in term.sides:
        product: dict[tuple[str, ...], float] = {}
        for units, factor in polynomial.items():
            for name, share in shares(side).items():
                key = tuple(sorted([*units, name])) if name else units
                product[key] = product.get(key, 0.0) + factor * share
        polynomial = product
    for units, factor in polynomial.items():
        if factor:
            distinct = tuple(dict.fromkeys(units))
            yield distinct, [units.count(name) for name in distinct], factor


def _terms(
    multiplied_out: list[tuple[tuple[str, ...], list[_Monomial]]], widths: WidthGrid, sizes: Sizes
) -> list[Piece]:
    return _summed(
        Piece(units, blocks, factor * _grid([widths[u] for u in units], powers))
        for blocks, monomials in multiplied_out
        for units, powers, factor in monomials
    )


def _grid(widths: list[Sequence[int]], powers: list[int]) -> NDArray[Any]:
    """The product of the widths, each to its power, over the grid of them all."""
    grid: NDArray[Any] = np.ones(())
    for choices, power in zip(widths, powers, strict=True):
        grid = np.multiply.outer(grid, np.array(choices, np.float64) ** power)
    return grid


def _layers(layers: tuple[LayerUse, ...], price: LayerPrice, widths: WidthGrid, sizes: Sizes) -> list[Piece]:
    return _summed(piece for layer in layers for piece in _of_layer(layer, price, widths, sizes))


def _of_layer(layer: LayerUse, price: LayerPrice, widths: WidthGrid, sizes: Sizes) -> Iterator[Piece]:
    inputs, outputs = ({name for name in shares(side) if name} for side in (layer.inputs, layer.outputs))
    units = inputs | outputs
    if len(units) <= 2:
        yield Piece(tuple(sorted(units)), layer.blocks, _table(layer, price, widths, units))
        return
    fixed = {name: (size,) for name, size in sizes.items()}
    alone = next((side for side in (outputs, inputs) if len(side) == 1), set())
    yield Piece(tuple(alone), layer.blocks, _table(layer, price, fixed | _only(widths, alone), alone))
    for unit in sorted(units - alone):
        pair = alone | {unit}
        changed = _table(layer, price, fixed | _only(widths, pair), pair)
        unchanged = _table(layer, price, fixed | _only(widths, alone), pair)
        yield Piece(tuple(sorted(pair)), layer.blocks, changed - unchanged)


def _only(widths: WidthGrid, units: set[str]) -> dict[str, Sequence[int]]:
    return {name: widths[name] for name in units}


def _table(layer: LayerUse, price: LayerPrice, widths: WidthGrid, units: set[str]) -> NDArray[Any]:
    """The layer's cost over the grid of the widths of `units`, sorted; other units have one width."""
    axes = sorted(units)

    def opened(side: Side) -> NDArray[Any]:
        count: NDArray[Any] = np.zeros(())
        for name, share in shares(side).items():
            along = np.array(widths[name] if name else (1,), np.float64)
            shape = [-1 if name == axis else 1 for axis in axes] if name in units else ()
            count = count + share * along.reshape(shape)
        return count

    shape = [len(widths[axis]) for axis in axes]
    inputs, outputs = (
        torch.from_numpy(np.broadcast_to(opened(side), shape).copy())
        for side in (layer.inputs, layer.outputs)
    )
    with torch.no_grad():
        return price(layer, inputs.flatten(), outputs.flatten()).double().cpu().numpy().reshape(shape)


def _summed(pieces: Iterable[Piece]) -> list[Piece]:
    """One piece for each set of units and blocks."""
    found: dict[tuple[tuple[str, ...], tuple[str, ...]], Piece] = {}
    for piece in pieces:
        key = piece.units, tuple(sorted(set(piece.blocks)))
        costs = piece.costs + found[key].costs if key in found else piece.costs
        found[key] = Piece(*key, costs)
    return list(found.values())
