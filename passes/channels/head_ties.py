"""Attention heads as units: what each owns of the layers around it."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn

from .anatomy import Whole
from .heads import INNER_WIDTH, Attention, find_attentions
from .surgery import UncuttableError
from .ties import Ties, own
from .units import Kind, Unit


def attention_ties(
    module: nn.Module, inputs: tuple[Tensor, ...], kinds: Collection[Kind]
) -> tuple[list[Ties], list[Whole], list[str]]:
    """The heads that can go; what cannot, with the reasons; and the layers whose outputs are no plain channels."""
    try:
        found = find_attentions(module, inputs)
    except UncuttableError as error:
        return [], [Whole("attention", str(error))], []
    layers = {a.name: module.get_submodule(a.name) for a in found}
    names = [f"{a.name}.qkv".lstrip(".") for a in found]
    whole = [Whole(a.name, a.whole) for a in found if a.whole]
    ties = (
        [_ties(a, layers[a.name]) for a in found if not a.whole and a.heads > 1]
        if Kind.HEADS in kinds
        else []
    )
    return ties, whole, names


def _ties(attention: Attention, layer: nn.Module) -> Ties:
    heads, size = attention.heads, attention.head_dim
    ties = Ties(Unit(attention.name, Kind.HEADS, heads, alike=f"{heads} heads of {size}"))
    prefix = f"{attention.name}." if attention.name else ""
    qkv, projection = f"{prefix}qkv", f"{prefix}{attention.projection}"
    columns = torch.arange(heads).repeat_interleave(size)
    rows = columns.repeat(3)
    own(ties.tensors, (f"{qkv}.weight", 0), len(rows), torch.arange(len(rows)), rows)
    if attention.qkv.bias is not None:
        own(ties.tensors, (f"{qkv}.bias", 0), len(rows), torch.arange(len(rows)), rows)
    own(ties.tensors, (f"{projection}.weight", 1), len(columns), torch.arange(len(columns)), columns)
    own(ties.reads, projection, len(columns), torch.arange(len(columns)), columns)
    own(ties.sizes, (qkv, "out_features"), len(rows), torch.arange(len(rows)), rows)
    own(ties.sizes, (projection, "in_features"), len(columns), torch.arange(len(columns)), columns)
    own(
        ties.sizes,
        (attention.name, attention.heads_attribute),
        heads,
        torch.arange(heads),
        torch.arange(heads),
    )
    for name in INNER_WIDTH:
        if isinstance(getattr(layer, name, None), int):
            own(ties.sizes, (attention.name, name), len(columns), torch.arange(len(columns)), columns)
    return ties
