"""What of an attention belongs to its heads, or to dimensions of them: tensors, and attributes that say sizes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from .attention_layers import QUERIES, Layout
from .kind import Kind
from .names import joined, lies_in
from .ties import NONE, Ties
from .units import Unit

_WORDS = ("inner", "attn", "attention", "head", "kv", "key", "val", "qk", "d_k", "d_v")
"""One is part of the name of an attribute that is the size of a head, or the width of all."""
_UNNAMED = ("dim", "out_dim", "dim_out", "embed_dim", "hidden_size", "hidden_dim", "d_model", "width")
_SIZES = {
    nn.Linear: ("out_features", "in_features"),
    nn.Conv2d: ("out_channels", "in_channels"),
    nn.modules.batchnorm._BatchNorm: ("num_features",),
}
"""Attributes that count the first dimensions of a layer's weight."""

Owners = dict[str, dict[int, Tensor]]
"""Tensor name -> dimension -> (size,) int64, the choice of each index."""


def choices_of(layout: Layout, kind: Kind) -> int:
    """How many choices there are: heads of keys and values, or dimensions of each head."""
    return layout.sizes.groups if kind is Kind.HEADS else layout.sizes.size


def queries_of(layout: Layout, kind: Kind) -> dict[str, Tensor]:
    """The choice of each output that a mask is to close, -1 for none: layer -> (outputs,); no layer for heads.

    Without dimensions of its queries a product does not know those of its keys either.
    """
    queries = {name: torch.where(r.part == QUERIES, r.place, NONE) for name, r in layout.producers.items()}
    return {name: o for name, o in queries.items() if (o != NONE).any()} if kind is Kind.HEAD_SIZE else {}


@dataclass(frozen=True, eq=False)
class Way:
    """A guess about how choices are removed.

    own: of tensors beside those of the layers, the choice of each index. widths: attributes that are the width of all
    heads, though their names do not say so. scaled: multiply the queries, for a product that divides by the square root
    of the size that is left.
    """

    own: Owners
    widths: frozenset[str]
    scaled: bool

    def moved(self, old: str, new: str) -> Way:
        """The same of a module alike: `new`, where this is of `old`."""
        return replace(
            self, own={joined(new, name[len(old) :].lstrip(".")): of for name, of in self.own.items()}
        )


def ties_of_attention(root: nn.Module, layout: Layout, kind: Kind, way: Way) -> Ties:
    """What belongs to the choices if the guesses are right. root: has the attention, and what is beside it alone."""
    ties = Ties(Unit(layout.name, kind, choices_of(layout, kind)))
    columns = layout.columns.owner(kind)
    owners: Owners = {f"{layout.projection}.weight": {1: columns}, **way.own}
    parameters = dict(root.named_parameters())
    for layer, rows in layout.producers.items():
        for name in (f"{layer}.weight", f"{layer}.bias"):
            if name in parameters:
                owners[name] = {0: rows.owner(kind)}
    ties.tensors = {(name, dim): owner for name, dims in owners.items() for dim, owner in dims.items()}
    ties.sizes = _sizes_of_layers(root, owners)
    for name, attributes in _attributes(root, layout.name, _shrinking(layout, kind, way)).items():
        each = torch.arange(ties.unit.size)
        for attribute, value in attributes.items():
            ties.sizes[name, attribute] = each.repeat_interleave(value // ties.unit.size)
    ties.reads = {layout.projection: columns}
    ties.makes = queries_of(layout, kind)
    ties.products = layout.queries(kind), columns
    if way.scaled:
        tensors = {
            f"{layer}.{leaf}": made for layer, made in ties.makes.items() for leaf in ("weight", "bias")
        }
        ties.factors = {name: made != NONE for name, made in tensors.items() if name in parameters}
    return ties


def _sizes_of_layers(root: nn.Module, owners: Owners) -> dict[tuple[str, str], Tensor]:
    found: dict[tuple[str, str], Tensor] = {}
    for name, dims in owners.items():
        layer, _, leaf = name.rpartition(".")
        module = root.get_submodule(layer)
        attributes = next((of for kind, of in _SIZES.items() if isinstance(module, kind)), ())
        if leaf == "weight" and attributes:
            found |= {(layer, attributes[dim]): owner for dim, owner in dims.items()}
    return found


def _shrinking(layout: Layout, kind: Kind, way: Way) -> Callable[[str, Any], bool]:
    def shrinks(name: str, value: Any) -> bool:
        known = name in way.widths and value in layout.sizes.widths
        return type(value) is int and (known or _shrinks(layout, kind, name, value))

    return shrinks


def _attributes(root: nn.Module, name: str, wanted: Callable[[str, Any], bool]) -> dict[str, dict[str, Any]]:
    """Those of the attention `name`, its parts and what it lies in."""
    found = {
        part: {key: value for key, value in vars(module).items() if wanted(key, value)}
        for part, module in root.named_modules()
        if (lies_in(part, name) or lies_in(name, part)) and not isinstance(module, tuple(_SIZES))
    }
    return {part: of for part, of in found.items() if of}


def doubtful_widths(root: nn.Module, layout: Layout, kind: Kind) -> set[str]:
    """Attributes whose value is the width of all heads, though they may be that of the input, or of one head."""

    def doubtful(name: str, value: Any) -> bool:
        width = type(value) is int and value in layout.sizes.widths
        return width and (name in _UNNAMED or (_says_size(name) and _may_be_of_one(layout, kind, value)))

    return {name for of in _attributes(root, layout.name, doubtful).values() for name in of}


def _shrinks(layout: Layout, kind: Kind, name: str, value: int) -> bool:
    """Whether an attribute says how many heads there are, how large they are, or the width of all."""
    sizes = layout.sizes
    if not _says_size(name):
        return kind is Kind.HEADS and "head" in name and value in (sizes.heads, sizes.groups)
    if not any(word in name for word in _WORDS):
        return False
    if kind is Kind.HEADS:
        return value in sizes.widths and not _may_be_of_one(layout, kind, value)
    return value in {sizes.size, *sizes.widths}


def _says_size(name: str) -> bool:
    return any(word in name for word in ("dim", "size", "width", "d_"))


def _may_be_of_one(layout: Layout, kind: Kind, value: int) -> bool:
    return kind is Kind.HEADS and value in (layout.sizes.size, layout.sizes.value_size)
