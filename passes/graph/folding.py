"""Folding: what depends on constants alone is computed once; scales go into the weights before them.

Every rewrite keeps the network's outputs to float error.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx

from .operators import (
    CONVOLUTIONS,
    along,
    aten,
    get_tensor,
    named_arguments,
    operand,
    optional_operand,
    owner_of,
    set_tensor,
)

LEARNED = "learned"
"""Among a graph's notes: the names of folded tensors that were computed from parameters."""
CONSTRUCTORS = (
    aten.zeros.default, aten.ones.default, aten.full.default,
    aten.new_zeros.default, aten.new_ones.default, aten.new_full.default,
    aten.arange.default, aten.arange.start, aten.arange.start_step,
)  # fmt: skip


def fold_constants(module: fx.GraphModule) -> None:
    """Compute once what depends on parameters and sizes alone (weight standardization, masks).

    Operators run in order, in-place ones included: a mask that is filled slice by slice comes out right.
    """
    constant: dict[fx.Node, Any] = {}
    parameters = dict(module.named_parameters())
    learned = {n for n in module.graph.nodes if n.op == "get_attr" and str(n.target) in parameters}
    for node in module.graph.nodes:
        if not learned.isdisjoint(node.all_input_nodes):
            learned.add(node)
        if node.op == "get_attr":
            constant[node] = get_tensor(module, str(node.target))
        elif node.op == "call_function" and _computable(node, constant):
            arguments = fx.map_arg(node.args, lambda n: _value(n, constant))
            keywords = fx.map_arg(node.kwargs, lambda n: _value(n, constant))
            with torch.no_grad():
                constant[node] = node.target(*arguments, **keywords)
    for node in list(module.graph.nodes):
        if node.op != "call_function" or node not in constant or not isinstance(constant[node], Tensor):
            continue
        readers = [user for user in node.users if user not in constant]
        if readers:
            name = _replace_by_constant(module, node, constant[node].detach().clone(), readers)
            if node in learned:
                module.meta.setdefault(LEARNED, set()).add(name)
    for node in reversed(list(module.graph.nodes)):
        if node.op == "call_function" and node in constant and not node.users:
            module.graph.erase_node(node)


def _value(node: fx.Node, constant: dict[fx.Node, Any]) -> Any:
    """The constant; for an input that `new_zeros` takes its type from, an empty tensor of that type."""
    return constant[node] if node in constant else torch.empty(0, dtype=node.meta["val"].dtype)


def _replace_by_constant(module: fx.GraphModule, node: fx.Node, value: Tensor, readers: list[fx.Node]) -> str:
    name = f"folded_{node.name}"
    module.register_buffer(name, value)
    with module.graph.inserting_before(node):
        folded = module.graph.get_attr(name)
    folded.meta["val"] = value
    for reader in readers:
        reader.replace_input_with(node, folded)
        if owner_of(reader):  # a layer whose weight was computed keeps the name of its module
            reader.meta.setdefault("layer", owner_of(reader))
    return name


def _computable(node: fx.Node, constant: dict[fx.Node, Any]) -> bool:
    """Whether the node's result is the same for every input. Random operators stay in the graph."""
    inputs = node.all_input_nodes
    if node.target in CONSTRUCTORS:
        return not inputs or (inputs == [node.args[0]] and isinstance(inputs[0].meta.get("val"), Tensor))
    if not inputs or any(n not in constant for n in inputs):
        return False
    if node.target is operator.getitem:
        return True
    if not isinstance(node.target, torch._ops.OpOverload):
        return False
    if (
        node.target._schema.is_mutable and _root(node).op == "get_attr"
    ):  # would change the module's own tensor
        return False
    return torch.Tag.nondeterministic_seeded not in node.target.tags


def _root(node: fx.Node) -> fx.Node:
    """The tensor that an in-place operator, through any views, writes to."""
    while node.op == "call_function" and node.args and isinstance(node.args[0], fx.Node):
        node = node.args[0]
    return node


def fold_batch_norm(module: fx.GraphModule) -> None:
    """Fold each BatchNorm into the convolution or linear layer that alone feeds it."""
    for node in list(module.graph.nodes):
        if node.target not in (aten.batch_norm.default, aten._native_batch_norm_legit_no_training.default):
            continue
        producer = operand(node, 0)
        # After a linear layer on (batch, tokens, channels), BatchNorm's channels are the tokens.
        if _foldable(producer) and (producer.target in CONVOLUTIONS or producer.meta["val"].dim() == 2):
            _fold_one(module, producer, node)


def _foldable(producer: fx.Node) -> bool:
    """Whether a factor per output channel can go into this node: a layer with constants, and one reader."""
    if producer.target not in (*CONVOLUTIONS, aten.linear.default) or len(producer.users) != 1:
        return False
    weight, bias = operand(producer, 1), optional_operand(producer, 2)
    return weight.op == "get_attr" and len(weight.users) == 1 and (bias is None or bias.op == "get_attr")


def _fold_one(module: fx.GraphModule, producer: fx.Node, norm: fx.Node) -> None:
    arguments = named_arguments(norm)
    given = {name: arguments[name] for name in ("running_mean", "running_var", "weight", "bias")}
    if any(node is not None and node.op != "get_attr" for node in given.values()):
        return  # conditioned on the input: nothing constant to fold
    if given["running_mean"] is None or given["running_var"] is None or arguments.get("training"):
        return  # normalizes with the statistics of the batch
    mean, variance, gamma, beta = (
        None if node is None else get_tensor(module, str(node.target)).double() for node in given.values()
    )
    assert mean is not None and variance is not None
    scale = torch.rsqrt(variance + arguments["eps"])
    if gamma is not None:
        scale = scale * gamma
    bias = optional_operand(producer, 2)
    before = torch.zeros_like(mean) if bias is None else get_tensor(module, str(bias.target)).double()
    shift = (before - mean) * scale + (0.0 if beta is None else beta)
    _scale_weight(module, producer, scale)
    _set_bias(module, producer, shift.to(get_tensor(module, str(operand(producer, 1).target)).dtype))
    norm.replace_all_uses_with(producer)
    module.graph.erase_node(norm)


def _scale_weight(module: fx.GraphModule, node: fx.Node, scale: Tensor) -> None:
    """Multiply output channel j of a layer's weight by scale[j], in float64."""
    name = str(operand(node, 1).target)
    weight = get_tensor(module, name)
    scaled = weight.double() * along(scale.double(), 0, weight.dim())
    set_tensor(module, name, scaled.to(weight.dtype))


def fold_channel_scale(module: fx.GraphModule) -> None:
    """Fold a constant factor per output channel (layer scale) into the layer that alone feeds it."""
    for node in list(module.graph.nodes):
        if node.target is not aten.mul.Tensor or not all(isinstance(a, fx.Node) for a in node.args[:2]):
            continue
        for producer, factor in (node.args[:2], node.args[1::-1]):
            if factor.op != "get_attr" or not _foldable(producer):
                continue
            scale = _per_channel(get_tensor(module, str(factor.target)), producer)
            if scale is None:
                continue
            bias = optional_operand(producer, 2)
            _scale_weight(module, producer, scale)
            if bias is not None:
                _set_bias(module, producer, get_tensor(module, str(bias.target)) * scale)
            node.replace_all_uses_with(producer)
            module.graph.erase_node(node)
            break


def _per_channel(factor: Tensor, producer: fx.Node) -> Tensor | None:
    """`factor` as one number per output channel of `producer`, shape (channels,), if that is what it is."""
    channels = operand(producer, 1).meta["val"].shape[0]
    trailing = 0 if producer.target is aten.linear.default else producer.meta["val"].dim() - 2
    shape = (channels, *([1] * trailing))
    if factor.numel() != channels or tuple(factor.shape)[-len(shape) :] != shape:
        return None
    return factor.reshape(-1)


def ensure_biases(module: fx.GraphModule, nodes: list[fx.Node]) -> None:
    """Give every convolution and linear node a bias of its own (zeros), for a correction to go into."""
    for node in nodes:
        existing = optional_operand(node, 2)
        if existing is not None and len(existing.users) == 1:
            continue
        weight = get_tensor(module, str(operand(node, 1).target))
        if existing is None:
            bias = torch.zeros(weight.shape[0], dtype=weight.dtype)
        else:
            bias = get_tensor(module, str(existing.target)).clone()
        _set_bias(module, node, bias)


def _set_bias(module: fx.GraphModule, node: fx.Node, bias: Tensor) -> None:
    """Give a convolution or linear node this bias, under a name next to its weight's."""
    existing = optional_operand(node, 2)
    if existing is not None and len(existing.users) == 1:
        set_tensor(module, str(existing.target), bias)
        return
    name = _bias_name(module, str(operand(node, 1).target), node.name)
    set_tensor(module, name, bias)
    with module.graph.inserting_before(node):
        bias_node = module.graph.get_attr(name)
    bias_node.meta["val"] = bias
    arguments = list(node.args) + [None] * (3 - len(node.args))
    arguments[2] = bias_node
    node.args = tuple(arguments)


def _bias_name(module: fx.GraphModule, weight_name: str, node_name: str) -> str:
    """A free name: layers that share one weight still have a bias each."""
    stem = weight_name.removesuffix(".weight")
    name = f"{stem}.folded_bias" if stem != weight_name else f"{weight_name}_folded_bias"
    owner_name, _, attribute = name.rpartition(".")
    return f"{name}_{node_name}" if hasattr(module.get_submodule(owner_name), attribute) else name
