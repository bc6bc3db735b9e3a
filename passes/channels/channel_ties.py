"""Which index of which tensor a channel of a group owns, read off torch-pruning's groups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .groups import ChannelGroups, parts_of
from .kind import Kind
from .surgery import UncuttableError
from .ties import NONE, Ties, own
from .units import Unit

_NORM_BY_CHANNEL = nn.modules.batchnorm._NormBase  # BatchNorm and InstanceNorm
NORMS = (nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
"""Norms that mix channels: of what is closed nothing must count in them."""


@dataclass(frozen=True)
class _Role:
    """What a layer has of the channels. tensors: leaf name -> dimension; counts: attributes that say their number."""

    width: int
    tensors: dict[str, int]
    counts: tuple[str, ...] = ()


def ties_of(groups: ChannelGroups, group: Any) -> Ties:
    """The ties of one group; UncuttableError, in words that follow its name, where a layer is not understood."""
    names, parts = groups.names, _parts(groups, group)
    size = groups.channels(group) // parts
    ties = Ties(Unit(names[id(group[0].dep.target.module)], Kind.CHANNELS, size, parts))
    for item in group:
        layer = item.dep.target.module
        name = names.get(id(layer))
        if name is None:  # an operation between layers: it has nothing that could be cut
            continue
        if None in item.root_idxs:
            raise UncuttableError(f"{name} repeats its channels")
        index, choice = torch.tensor(item.idxs), torch.tensor(item.root_idxs) % size
        reads = groups.reads(item.dep)
        role = _role(groups, name, layer, reads)
        if int(index.max()) >= role.width:  # another dimension of what goes through is its channels
            ties.doubt = f"a reshape mixes its channels with positions, before {name}"
        elif isinstance(layer, nn.Parameter):
            _tie_parameter(ties, groups, name, role, index, choice)
        else:
            if reads:
                own(ties.reads, name, role.width, index, choice)
            elif isinstance(layer, NORMS):
                own(ties.norms, name, role.width, index, choice)
            _tie(ties, name, layer, role, index, choice)
    for name, owner in ties.reads.items():
        if bool((owner != NONE).all()) and len(set(owner.tolist())) < size:
            raise UncuttableError(f"they are split, and {name} could lose all that it reads")
    return ties


def _role(groups: ChannelGroups, name: str, layer: nn.Module | nn.Parameter, reads: bool) -> _Role:
    if isinstance(layer, nn.Parameter):
        dim = groups.dimension(layer)
        return _Role(layer.shape[dim], {name: dim})
    return _reader(layer) if reads else _maker(name, layer)


def _tie_parameter(
    ties: Ties, groups: ChannelGroups, name: str, role: _Role, index: Tensor, choice: Tensor
) -> None:
    """A parameter of no layer that torch-pruning knows: a layer scale, a class token, a norm of somebody's own."""
    own(ties.tensors, (name, role.tensors[name]), role.width, index, choice)
    module = name.rpartition(".")[0]
    layer = groups.module(module)
    if "rmsnorm" in type(layer).__name__.lower():
        own(ties.norms, module, role.width, index, choice)
        if isinstance(getattr(layer, "normalized_shape", None), tuple):
            own(ties.sizes, (module, "normalized_shape"), role.width, index, choice)


def _tie(ties: Ties, name: str, layer: nn.Module, role: _Role, index: Tensor, choice: Tensor) -> None:
    tensors = _own_tensors(layer)
    for leaf, dim in role.tensors.items():
        length = tensors[leaf].shape[dim]
        here = index < length  # each group of a grouped convolution has weights for its own inputs only
        own(ties.tensors, (f"{name}.{leaf}", dim), length, index[here], choice[here])
    for count in role.counts:
        own(ties.sizes, (name, count), role.width, index, choice)


def _parts(groups: ChannelGroups, group: Any) -> int:
    """Into how many equal parts the channels fall, of which each loses the same ones."""
    channels, parts = groups.channels(group), parts_of(group)
    together = groups.tied_to_first(group)  # both halves of what is split and multiplied, as in gated MLPs
    if channels % parts or channels % len(together):
        raise UncuttableError("its channels fall into parts of several sizes")
    if together != list(range(0, channels, channels // len(together))):
        raise UncuttableError("its channels are tied to one another")
    if 1 < parts != len(together) > 1:
        raise UncuttableError("its channels are parted in two ways")
    return max(parts, len(together))


def _reader(layer: nn.Module) -> _Role:
    if isinstance(layer, nn.modules.conv._ConvNd):
        return _Role(layer.in_channels, {"weight": int(not layer.transposed)}, ("in_channels",))
    if isinstance(layer, nn.Linear):
        return _Role(layer.in_features, {"weight": 1}, ("in_features",))
    raise UncuttableError(f"{type(layer).__name__} reads it")


def _maker(name: str, layer: nn.Module) -> _Role:
    """A layer whose outputs the channels are, or that treats each for itself."""
    further = _further(layer)
    if isinstance(layer, nn.modules.conv._ConvNd):
        depthwise = layer.groups == layer.out_channels == layer.in_channels
        if layer.transposed and layer.groups > 1 and not depthwise:
            raise UncuttableError(f"{name} is a grouped transposed convolution")
        counts = ("out_channels", "in_channels", "groups") if depthwise else ("out_channels",)
        return _Role(
            layer.out_channels, {"weight": int(layer.transposed and not depthwise)} | further, counts
        )
    if isinstance(layer, nn.Linear):
        return _Role(layer.out_features, {"weight": 0} | further, ("out_features",))
    if isinstance(layer, nn.Embedding):
        return _Role(layer.embedding_dim, {"weight": 1}, ("embedding_dim",))
    if isinstance(layer, (_NORM_BY_CHANNEL, *NORMS, nn.PReLU)):
        return _by_channel(name, layer)
    raise UncuttableError(f"{name} ({type(layer).__name__}) is tied to it")


def _further(layer: nn.Module) -> dict[str, int]:
    """What a layer has for each of its outputs beside its weights: a bias, a gain of standardized weights."""
    outputs = getattr(layer, "out_channels", getattr(layer, "out_features", 0))
    beside = ((leaf, t) for leaf, t in _own_tensors(layer).items() if leaf != "weight")
    return {leaf: 0 for leaf, t in beside if t.dim() and t.shape[0] == outputs}


def _by_channel(name: str, layer: nn.Module) -> _Role:
    tensors = {leaf: 0 for leaf, tensor in _own_tensors(layer).items() if tensor.dim()}
    shape = getattr(layer, "normalized_shape", ())
    if len(shape) > 1:
        raise UncuttableError(f"{name} is a norm over more than channels")
    if shape:
        return _Role(shape[0], tensors, ("normalized_shape",))
    if isinstance(layer, nn.GroupNorm):
        return _Role(layer.num_channels, tensors, ("num_channels",))
    if isinstance(layer, nn.PReLU):
        # One slope for all channels belongs to none of them.
        own_slopes = layer.num_parameters > 1
        return _Role(layer.num_parameters, tensors, ("num_parameters",)) if own_slopes else _Role(1, {})
    assert isinstance(layer, _NORM_BY_CHANNEL)
    return _Role(layer.num_features, tensors, ("num_features",))


def _own_tensors(layer: nn.Module) -> dict[str, Tensor]:
    """The parameters and buffers of a layer itself, by their leaf names."""
    return dict([*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False)])
