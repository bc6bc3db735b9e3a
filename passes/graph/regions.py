"""Regions: what forward() computes under autocast, or where it turns gradients on or off, joins the graph around it.

torch.export keeps such a region as an operator that calls a graph of its own, in which no layer would be found.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx

from ...errors import CompressError
from .operators import owner_of

LOWERED = (torch.bfloat16, torch.float16)
AUTOCAST = torch.ops.higher_order.wrap_with_autocast
GRADIENTS = torch.ops.higher_order.wrap_with_set_grad_enabled


def inline_regions(module: fx.GraphModule, network: str) -> None:
    """Put what is computed in regions into the graph itself.

    network: its name in messages. CompressError for an autocast that has layers compute in lower precision, and for
    branches that are chosen while the network runs.
    """
    for node in list(module.graph.nodes):
        if node.target is AUTOCAST:
            device, dtype, enabled, _, body, *inputs = node.args
            inner = _inlined(module, body, network)
            if enabled and any(_lower(each) for each in inner.graph.nodes):
                raise CompressError(
                    f"{network}: forward(){_of(node)} turns on torch.autocast('{device}', {dtype}), and layers compute"
                    " in lower precision. Passes and runtimes choose the precision of each layer themselves: give that"
                    " autocast enabled=False, or move it from forward() to where the network is called."
                )
            _join(module, node, body, inner, inputs)
        elif node.target is GRADIENTS:
            _, body, *inputs = node.args
            _join(module, node, body, _inlined(module, body, network), inputs)
        elif isinstance(node.target, torch._ops.HigherOrderOperator):
            raise CompressError(
                f"{network}: forward(){_of(node)} has a torch.{node.target.__name__}, whose parts are graphs of their"
                " own: passes see one graph only. Take the branch or loop out of forward(), or write it with operators"
                " on whole tensors, such as torch.where"
            )


def _inlined(module: fx.GraphModule, body: fx.Node, network: str) -> fx.GraphModule:
    inner = module.get_submodule(str(body.target))
    assert isinstance(inner, fx.GraphModule)
    inline_regions(inner, network)
    return inner


def _join(
    module: fx.GraphModule, call: fx.Node, body: fx.Node, inner: fx.GraphModule, inputs: list[Any]
) -> None:
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


def _of(node: fx.Node) -> str:
    owner = owner_of(node)
    return f" of {owner}" if owner else ""


def _lower(node: fx.Node) -> bool:
    """Whether a node has a tensor of lower precision than float32: what autocast changes, it makes one of."""
    value = node.meta.get("val")
    values = value if isinstance(value, (tuple, list)) else [value]
    return any(isinstance(each, Tensor) and each.dtype in LOWERED for each in values)
