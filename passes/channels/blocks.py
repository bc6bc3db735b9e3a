"""Blocks of a network that can be passed over, since what they return has the shape of what they take.

A block is a child with at least two weighted layers, in a container that holds two or more of its type. It can go when
it takes one tensor and returns one of the same shape, in a chain with its neighbours: then the network without it
still fits together, and in a residual block the skip connection is what is left.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from .runs import Call, calls_of


def find_blocks(
    module: nn.Module, inputs: tuple[Tensor, ...], iterated: bool = False
) -> dict[str, dict[str, torch.Size]]:
    """The blocks that can go, by container and key, in the network's order; with the shape that goes through each.

    iterated: only of containers that a block can be taken out of, since they go through their children.
    """
    candidates = dict(candidates_in(module))
    calls = calls_of(module, inputs, [block for blocks in candidates.values() for block in blocks.values()])
    found: dict[str, dict[str, torch.Size]] = {}
    for name, blocks in sorted(candidates.items(), key=lambda item: -_levels(item[0])):
        # Innermost first: a stage of blocks is not itself a block, though it may keep the shape.
        if any(_inside(inner, name, key) for inner in found for key in blocks):
            continue
        droppable = _droppable(module.get_submodule(name), blocks, calls)
        if droppable and (not iterated or _iterates(module, name, sorted(droppable)[0], inputs)):
            found[name] = droppable
    order = [name for name, _ in module.named_modules()]
    return {name: found[name] for name in sorted(found, key=order.index)}


def candidates_in(module: nn.Module) -> Iterator[tuple[str, dict[str, nn.Module]]]:
    """Containers with at least two blocks of one type: name -> the blocks in it, of any type."""
    for name, parent in module.named_modules():
        blocks = {key: child for key, child in parent.named_children() if _is_block(child)}
        if any(count > 1 for count in Counter(map(type, blocks.values())).values()):
            yield name, blocks


def _levels(name: str) -> int:
    return name.count(".") + bool(name)


def _inside(inner: str, outer: str, key: str) -> bool:
    block = f"{outer}.{key}" if outer else key
    return inner == block or inner.startswith(block + ".")


def _is_block(module: nn.Module) -> bool:
    """At least two layers below it have weights: a convolution with its norm is a layer, not a block."""
    below = [m for m in module.modules() if m is not module]
    return sum(any(p.dim() > 1 for p in m.parameters(recurse=False)) for m in below) > 1


def _droppable(
    container: nn.Module, blocks: Mapping[str, nn.Module], calls: Mapping[int, list[Call]]
) -> dict[str, torch.Size]:
    """The blocks that keep the shape, run once, and hand on to (or take from) a neighbour; with that shape.

    Without the last, parallel branches would be taken for a chain: each keeps the shape, too.
    """
    once = {key: calls[id(block)][0] for key, block in blocks.items() if len(calls.get(id(block), ())) == 1}
    keys = list(container._modules)
    chained = isinstance(container, nn.Sequential)
    droppable = {}
    for key, call in once.items():
        position = keys.index(key)
        before = once.get(keys[position - 1]) if position else None
        after = once.get(keys[position + 1]) if position + 1 < len(keys) else None
        linked = (before is not None and before.returned is call.taken) or (
            after is not None and after.taken is call.returned
        )
        if call.keeps_shape and (chained or linked):
            droppable[key] = call.returned.shape
    return droppable


def _iterates(module: nn.Module, name: str, key: str, inputs: tuple[Tensor, ...]) -> bool:
    """Whether a parent that is no list goes through its children, rather than naming each: found by leaving one out."""
    if isinstance(module.get_submodule(name), (nn.Sequential, nn.ModuleList)):
        return True
    trial = copy.deepcopy(module)
    del trial.get_submodule(name)._modules[key]
    try:
        with torch.no_grad():
            trial(*inputs)
    except Exception:  # most often AttributeError, for the child that is missing
        return False
    return True
