"""Putting together what the units of a network own: its sides, its terms, and the layers that multiply."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ...macs import OperatorMacs
from .anatomy import Anatomy, LayerUse, Side, Term, Whole
from .kind import Kind
from .names import above, joined, lies_in
from .ties import Ties

if TYPE_CHECKING:
    from ...model import Model

_MULTIPLIES = (nn.modules.conv._ConvNd, nn.Linear)


@dataclass(frozen=True)
class Sides:
    """What several units own together; fields as in `Ties`, but for sides in place of maps of owners.

    tensors: a side for each dimension. shapes: the values of those attributes in `sizes` that hold several numbers, of
    which each that equals the size follows it. products: of each attention that loses anything. factors: by unit.
    blocks: the units that are blocks.
    """

    tensors: Mapping[str, tuple[Side, ...]]
    sizes: Mapping[tuple[str, str], Side]
    shapes: Mapping[tuple[str, str], tuple[int, ...]]
    reads: Mapping[str, Side]
    makes: Mapping[str, Side]
    norms: Mapping[str, Side]
    factors: Mapping[str, Mapping[str, Tensor]]
    products: Mapping[str, tuple[Side, Side]]
    blocks: tuple[str, ...]


def sides_of(module: nn.Module, found: Sequence[Ties]) -> Sides:
    """The sides of a network's tensors, layers and attributes."""
    named = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    dims = _merged(found, "tensors")
    tensors = {
        name: tuple(dims.get((name, dim), Side(size)) for dim, size in enumerate(tensor.shape))
        for name, tensor in named
    }
    sizes = _merged(found, "sizes")
    values = {(name, key): getattr(module.get_submodule(name), key) for name, key in sizes}
    return Sides(
        tensors=tensors,
        sizes=sizes,
        shapes={key: tuple(value) for key, value in values.items() if isinstance(value, (tuple, list))},
        reads=_merged(found, "reads"),
        makes=_merged(found, "makes"),
        norms=_merged(found, "norms"),
        factors={ties.unit.name: ties.factors for ties in found if ties.factors},
        products={ties.unit.name: _products_of(ties, ties.products) for ties in found if ties.products},
        blocks=tuple(ties.unit.name for ties in found if ties.unit.kind is Kind.BLOCK),
    )


def anatomy_of(model: Model, found: Sequence[Ties], sides: Sides, whole: Sequence[Whole]) -> Anatomy:
    """The anatomy of a network: a term for each parameter, and what each layer multiplies."""
    params = {
        names[0]: Term(1.0, sides.tensors[names[0]], _around_all(names, sides.blocks))
        for names in _parameters(model.module)
    }
    return Anatomy(
        units=tuple(ties.unit for ties in found),
        params=params,
        layers=tuple(_layers(model, sides)),
        whole=tuple(whole),
    )


def inside(name: str, blocks: Iterable[str]) -> bool:
    """Whether a tensor or module lies in one of the blocks, or is it."""
    return bool(_around(name, blocks))


def _around(name: str, blocks: Iterable[str]) -> tuple[str, ...]:
    return _around_all((name,), blocks)


def _parameters(module: nn.Module) -> list[list[str]]:
    """The names of each parameter, which are several where modules share it."""
    found: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        found.setdefault(id(parameter), []).append(name)
    return list(found.values())


def _around_all(names: Iterable[str], blocks: Iterable[str]) -> tuple[str, ...]:
    """The blocks that all of these names lie in: with one of several blocks gone, what they share is still there."""
    return tuple(block for block in blocks if all(lies_in(name, block) for name in names))


def _products_of(ties: Ties, owners: tuple[Tensor, Tensor]) -> tuple[Side, Side]:
    queries, values = (Side(len(owner), {ties.unit.name: owner}) for owner in owners)
    return queries, values


def _merged(found: Sequence[Ties], which: str) -> dict[Any, Side]:
    """One side for all units that own something of the same dimension, layer or attribute."""
    owners: dict[Any, dict[str, Tensor]] = {}
    for ties in found:
        for key, owner in getattr(ties, which).items():
            owners.setdefault(key, {})[ties.unit.name] = owner
    return {key: Side(len(next(iter(each.values()))), each) for key, each in owners.items()}


def _layers(model: Model, sides: Sides) -> list[LayerUse]:
    """Whatever multiplies, in the order in which it first runs."""
    by_place: dict[str, list[OperatorMacs]] = {}
    for one in model.operator_macs():
        by_place.setdefault(one.place, []).append(one)
    return [
        replace(
            _layer(model.module, name, sum(one.macs or 0 for one in operators), sides),
            uncounted=tuple(str(one) for one in operators if one.macs is None),
        )
        for name, operators in by_place.items()
    ]


def _layer(module: nn.Module, name: str, macs: float, sides: Sides) -> LayerUse:
    """What multiplies at a place. macs: of one sample, of all that is known."""
    layer, blocks = module.get_submodule(name), _around(name, sides.blocks)
    if not isinstance(layer, _MULTIPLIES):
        return _products(layer, name, macs, blocks, sides)
    weight = sides.tensors[joined(name, "weight")]
    incoming = sides.reads.get(name) or _incoming(layer, weight)
    outgoing = weight[1] if getattr(layer, "transposed", False) else weight[0]
    work = Term(macs / layer.weight.numel(), weight, blocks)  # every weight is used as often as any other
    return LayerUse(name, type(layer).__name__, incoming, outgoing, (work,), blocks)


def _incoming(layer: nn.Module, weight: Sequence[Side]) -> Side:
    """What a layer reads, whose weight has these sides, where no unit owns any of it.

    A depthwise convolution counts as one that reads a single channel for each that it makes: its work grows with its
    channels, and not with their square.
    """
    if not isinstance(layer, nn.modules.conv._ConvNd):
        return weight[1]
    if layer.transposed:
        return weight[0]
    depthwise = layer.groups == layer.in_channels == layer.out_channels
    # Of other groups each weight has the inputs of its own one alone.
    return weight[1] if depthwise or layer.groups == 1 else Side(layer.in_channels)


def _products(layer: nn.Module, name: str, macs: float, blocks: tuple[str, ...], sides: Sides) -> LayerUse:
    """Products that no layer makes, as of queries with keys, and of what comes of these with values, in attention."""
    places = (place for place in above(name) if place in sides.products)
    attention = next(places, None)
    if attention is None:
        return LayerUse(name, type(layer).__name__, Side(0), Side(0), (Term(macs, (), blocks),), blocks)
    queries, values = sides.products[attention]
    # Both products shrink with the unit alike: whole heads go, or as many dimensions of either.
    work = Term(macs / values.size, (values,), blocks)
    return LayerUse(name, "attention", queries, values, (work,), blocks)
