"""Which attention heads a narrower student keeps: those of the largest weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..channels.assembly import sides_of
from ..channels.attention import Attention, find_attentions
from ..channels.dissected import removal_of
from ..channels.surgery import Cut, UncuttableError


def attentions_of(module: nn.Module, inputs: tuple[Tensor, ...]) -> list[Attention]:
    """All attention of the network; UncuttableError for one whose layers are not understood."""
    found, whole = find_attentions(module, inputs)
    unknown = next((one for one in whole if one.name not in {attention.name for attention in found}), None)
    if unknown is not None:
        kind = type(module.get_submodule(unknown.name)).__name__
        raise UncuttableError(
            f"the heads of {unknown.name or 'the network'} ({kind}) cannot be narrowed: {unknown.reason}"
        )
    return found


def why_whole(attention: Attention) -> str:
    """Why all heads stay; empty where some can go.

    Where a network runs with fewer heads only if it is narrower too, for some take the width of the heads from their
    input, that shows in the whole of it: usual layers are narrowed without having been tried alone.
    """
    if attention.ties is None or attention.layout is None or not attention.reason:
        return attention.reason
    if not attention.layout.usual:
        return "its qkv rows are not in the order (3, heads, size)"
    layers = {*attention.producers, attention.layout.projection}
    own = [name for name, _ in attention.ties.tensors if name.rpartition(".")[0] not in layers]
    return "it has tensors of its own beside its layers" if own else ""


def kept_heads(attention: Attention, width: float) -> int:
    """How many heads are left at this width, at least one; all where they cannot be cut."""
    heads = heads_of(attention)
    return heads if why_whole(attention) else max(1, int(width * heads + 0.5))


def kept_channels(attention: Attention, width: float) -> int | None:
    """How many channels the heads that are left have together; None where that is not known."""
    if attention.layout is None:
        return None
    columns = len(attention.layout.columns.head)
    return columns * kept_heads(attention, width) // heads_of(attention)


def heads_of(attention: Attention) -> int:
    """How many heads there are: of keys and values, where several queries share one."""
    return attention.layout.sizes.groups if attention.layout is not None else 0


def choose_heads(module: nn.Module, attentions: list[Attention], width: float) -> Cut:
    """The cut to the heads of the largest weights."""
    cut = Cut()
    for attention in attentions:
        kept = kept_heads(attention, width)
        if attention.ties is not None and kept < heads_of(attention):
            order = torch.argsort(head_magnitude(module, attention), descending=True, stable=True)
            choices = tuple(sorted(order[:kept].tolist()))
            cut.add(removal_of(sides_of(module, [attention.ties]), {attention.ties.unit.name: choices}).cut)
    return cut


def head_magnitude(module: nn.Module, attention: Attention) -> Tensor:
    """How large each head's weights are, (heads,): sums of squares of what makes it, and of what reads it.

    Each of the two is taken over its mean. attention: one whose heads can be cut.
    """
    layout = attention.layout
    assert layout is not None
    made, read = torch.zeros(layout.sizes.groups), torch.zeros(layout.sizes.groups)
    for layer, rows in layout.producers.items():
        made.index_add_(0, rows.head, _squares(module, layer, 0))
    read.index_add_(0, layout.columns.head, _squares(module, layout.projection, 1))
    return read / read.mean() + made / made.mean()


def _squares(module: nn.Module, layer: str, dim: int) -> Tensor:
    """Of each index of a dimension of a layer's weight, the sum of squares."""
    weight: Tensor = module.get_parameter(f"{layer}.weight").detach().float().cpu()
    return weight.square().movedim(dim, 0).flatten(1).sum(1)
