"""What makes a smaller network of a copy of one, given what to keep: surgery that decides nothing."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


class UncuttableError(Exception):
    """Why a network cannot be cut, in words that follow the name of whoever asked: a pass says it in its own."""


@dataclass
class Cut:
    """Which channels are kept.

    tensors: parameter or buffer name -> dimension -> the kept indices, ascending; other dimensions are whole.
    attributes: module name -> attribute -> its new value, such as `out_channels` of a convolution.
    """

    tensors: dict[str, dict[int, list[int]]] = field(default_factory=dict)
    attributes: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, other: Cut) -> None:
        """Cut what `other` cuts as well; the two never share a dimension of a tensor."""
        for name, dims in other.tensors.items():
            self.tensors.setdefault(name, {}).update(dims)
        for name, attributes in other.attributes.items():
            self.attributes.setdefault(name, {}).update(attributes)

    def to_json(self) -> dict[str, Any]:
        """JSON values; equal index lists, which all tensors of one channel group have, are stored once."""
        numbers: dict[tuple[int, ...], int] = {}
        tensors = {
            name: {str(dim): numbers.setdefault(tuple(kept), len(numbers)) for dim, kept in dims.items()}
            for name, dims in self.tensors.items()
        }
        return {
            "indices": [list(kept) for kept in numbers],
            "tensors": tensors,
            "attributes": {name: dict(values) for name, values in self.attributes.items()},
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Cut:
        """The cut that `to_json` wrote."""
        tensors = {
            name: {int(dim): list(stored["indices"][number]) for dim, number in dims.items()}
            for name, dims in stored["tensors"].items()
        }
        return cls(tensors, {name: dict(values) for name, values in stored["attributes"].items()})


def keep_blocks(module: nn.Module, kept: Mapping[str, Sequence[str]]) -> None:
    """Keep only the children `kept[name]` of each container `name`, in the container object itself.

    A container stays what it is, for it may have a forward and attributes of its own. Children numbered from 0
    are numbered anew, as code that enumerates or indexes them expects; named ones keep their names.
    """
    # All are looked up before any is renumbered: one may lie within another.
    containers = [(module.get_submodule(name), keys) for name, keys in kept.items()]
    for container, keys in containers:
        names = list(container._modules)
        missing = set(keys) - set(names)
        if missing:
            raise KeyError(f"{type(container).__name__} has no child {sorted(missing)}")
        children = [(name, container._modules[name]) for name in names if name in set(keys)]
        if names == [str(index) for index in range(len(names))]:
            children = [(str(index), child) for index, (_, child) in enumerate(children)]
        container._modules.clear()
        container._modules.update(children)


def copied(module: nn.Module) -> nn.Module:
    """A copy of a network, with empty caches: what stands there is of tensors that are to change.

    It may also have been made with gradients, and that cannot be copied.
    """
    caches: dict[int, Any] = {id(cache): {} for cache in caches_of(module)}
    return copy.deepcopy(module, caches)


def caches_of(module: nn.Module) -> Iterator[dict[Any, Any]]:
    """What modules keep of what they computed from their tensors, as LeViT does of its tables of positions."""
    for part in module.modules():
        yield from (value for key, value in vars(part).items() if type(value) is dict and "cache" in key)


def keep_channels(module: nn.Module, cut: Cut) -> None:
    """Cut parameters, buffers and the attributes that say their sizes, in place; tied tensors stay tied."""
    done: dict[int, tuple[Tensor, Tensor]] = {}  # holds the old tensor too: a freed one's id is used again
    for name, dims in cut.tensors.items():
        owner_name, _, leaf = name.rpartition(".")
        owner = module.get_submodule(owner_name)
        slots: dict[str, Any] = owner._parameters if leaf in owner._parameters else owner._buffers
        old = slots[leaf]
        if id(old) not in done:
            new = kept_of(old.detach(), dims)
            done[id(old)] = (
                old,
                nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new,
            )
        slots[leaf] = done[id(old)][1]
    for name, attributes in cut.attributes.items():
        layer = module.get_submodule(name)
        for attribute, value in attributes.items():
            setattr(layer, attribute, tuple(value) if isinstance(value, (list, tuple)) else value)


def kept_of(tensor: Tensor, dims: Mapping[int, Sequence[int]]) -> Tensor:
    """`tensor` with only the given indices of the given dimensions."""
    for dim, kept in dims.items():
        tensor = tensor.index_select(dim, torch.tensor(kept, device=tensor.device))
    return tensor


def plain_parameters(module: nn.Module) -> None:
    """Make each parameter a plain one that can be trained; tied parameters stay tied."""
    plain: dict[int, nn.Parameter] = {}
    for layer in list(module.modules()):
        for name, old in layer._parameters.items():
            if old is not None:
                new = nn.Parameter(old.detach(), requires_grad=old.is_floating_point())
                layer._parameters[name] = plain.setdefault(id(old), new)
