"""The layers of a canonical graph: what multiplies and accumulates, by which name, with which weight, and how often."""

from __future__ import annotations

from math import prod

import torch
from torch import fx

from ...torch_macs import fixed_size, node_macs
from .operators import CONVOLUTIONS, MATMULS, NEVER_INT8, TRANSPOSED, WEIGHTED, aten, operand


def layer_name(node: fx.Node) -> str:
    """The name a user knows a layer by: that of the module owning its weight, else the node's own."""
    if "layer" in node.meta:
        return str(node.meta["layer"])
    operands = weight_operands(node)
    if not operands:
        return node.name
    tensor = str(operands[0].target)
    return tensor.removesuffix(".weight") if tensor.endswith(".weight") else tensor


def weight_operands(node: fx.Node) -> list[fx.Node]:
    """The constant operands of a layer that can be stored as INT8."""
    if node.target in WEIGHTED:
        candidates = [node.args[1]]
    elif node.target in MATMULS:
        candidates = list(node.args[:2])
    else:
        return []
    return [c for c in candidates if isinstance(c, fx.Node) and c.op == "get_attr"]


def layers_of(module: fx.GraphModule) -> list[fx.Node]:
    """The nodes that multiply and accumulate, in order."""
    return [n for n in module.graph.nodes if n.target in (*WEIGHTED, *MATMULS) or n.target in NEVER_INT8]


def weight_axis(node: fx.Node, constant: fx.Node) -> int:
    """The axis of a constant operand along which outputs are independent."""
    if node.target in WEIGHTED:
        return 1 if node.target in TRANSPOSED else 0
    rank = len(shape_of(constant))
    return rank - 1 if constant is node.args[1] else rank - 2


def shape_of(node: fx.Node) -> tuple[int, ...]:
    """The shape of a node's tensor as it was captured; () where none was noted."""
    value = node.meta.get("val")
    return tuple(value.shape) if isinstance(value, torch.Tensor) else ()


def macs_of(node: fx.Node) -> int | None:
    """Multiply-accumulates of one sample, from the shapes noted at capture; None where they cannot be counted."""
    output = node.meta.get("val")
    if isinstance(output, torch.Tensor):  # these need no more than the shapes that every rewrite notes
        batch = _batch(node.graph)
        if node.target in CONVOLUTIONS:
            return _count(output) * _count(operand(node, 1).meta["val"][0]) // batch
        if node.target in TRANSPOSED:
            return _count(operand(node, 0).meta["val"]) * _count(operand(node, 1).meta["val"][0]) // batch
        if node.target in MATMULS or node.target is aten.linear.default:
            return _count(output) * fixed_size(operand(node, 0).meta["val"].shape[-1]) // batch
    known = node.meta.get("macs")
    if (
        known is None or known[0] is not node.target
    ):  # placement is asked many times, and a recurrent layer is slow
        macs = node_macs(node)
        known = node.meta["macs"] = (node.target, macs // _batch(node.graph) if macs is not None else None)
    count: int | None = known[1]
    return count


def _count(tensor: torch.Tensor) -> int:
    """Number of elements; a dynamic size counts as it is for a batch of one."""
    return prod(map(fixed_size, tensor.shape))


def _batch(graph: fx.Graph) -> int:
    """The samples in a batch: 1 where it is dynamic, as sizes are then counted for one."""
    inputs = [n.meta["val"] for n in graph.nodes if n.op == "placeholder" and "val" in n.meta]
    batch = inputs[0].shape[0] if inputs and isinstance(inputs[0], torch.Tensor) and inputs[0].dim() else 1
    return batch if isinstance(batch, int) else 1
