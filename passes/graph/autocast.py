"""Autocast: what a forward() computes under `torch.autocast` becomes a part of the graph around it.

torch.export keeps it as an operator that calls a graph of its own, in which no layer would be found.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx

from ...errors import CompressError
from .operators import owner_of

LOWERED = (torch.bfloat16, torch.float16)


def inline_autocast(module: fx.GraphModule, network: str) -> None:
    """Put what is computed under an autocast that lowers nothing, such as a disabled one, into the graph itself.

    network: its name in messages. CompressError for an autocast that has layers compute in lower precision.
    """
    for node in list(module.graph.nodes):
        if node.target is torch.ops.higher_order.wrap_with_autocast:
            _inline(module, node, network)


def _inline(module: fx.GraphModule, call: fx.Node, network: str) -> None:
    arguments: tuple[Any, ...] = call.args
    device, dtype, enabled, _, body, *inputs = arguments
    inner = module.get_submodule(str(body.target))
    assert isinstance(inner, fx.GraphModule)
    inline_autocast(inner, network)
    if enabled and any(_lower(node) for node in inner.graph.nodes):
        owner = owner_of(call)
        raise CompressError(
            f"{network}: forward(){f' of {owner}' if owner else ''} turns on torch.autocast('{device}', {dtype}), and"
            " layers compute in lower precision. Passes and runtimes choose the precision of each layer themselves:"
            " give that autocast enabled=False, or move it from forward() to where the network is called."
        )
    places = [node for node in inner.graph.nodes if node.op == "placeholder"]
    with module.graph.inserting_before(call):
        made: Any = module.graph.graph_copy(inner.graph, dict(zip(places, inputs, strict=True)))
    for user in list(call.users):
        assert user.target is operator.getitem  # torch.export takes each output by its number
        user.replace_all_uses_with(made[user.args[1]])
        module.graph.erase_node(user)
    module.graph.erase_node(call)
    if not body.users:
        module.graph.erase_node(body)


def _lower(node: fx.Node) -> bool:
    """Whether a node has a tensor of lower precision than float32: what autocast changes, it makes one of."""
    value = node.meta.get("val")
    values = value if isinstance(value, (tuple, list)) else [value]
    return any(isinstance(each, Tensor) and each.dtype in LOWERED for each in values)
