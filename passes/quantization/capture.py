"""Capture: any module to one canonical ATen graph, in which nothing hides from the quantizers.

Subclassed layers, functional calls and fused attention all become the same few operators, so that placement
looks at operators and never at Python types. Every rewrite here keeps the outputs to float error.
"""

from __future__ import annotations

import copy
import math
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim

from ...errors import CompressError
from ...model import Model

aten = torch.ops.aten

CONVOLUTIONS = (
    aten.conv1d.default,
    aten.conv2d.default,
    aten.conv3d.default,
    aten.conv1d.padding,
    aten.conv2d.padding,
    aten.conv3d.padding,
)


def capture(model: Model) -> fx.GraphModule:
    """The canonical graph of `model`: BatchNorm folded, attention as matmuls, constants computed.

    Parameters stay under their own names (`features.0.weight`); node names are the same in every process.
    Raises CompressError when the module cannot be captured as one graph.
    """
    if isinstance(model.module, fx.GraphModule) and model.module.meta.get("captured"):
        return copy.deepcopy(model.module)
    graph_module = _export(model)
    _drop(graph_module, _is_inference_identity)
    _make_functional(graph_module)
    _decompose_attention(graph_module)
    _fold_constants(graph_module)
    _fold_batch_norm(graph_module)
    _fold_channel_scale(graph_module)
    graph_module.graph.eliminate_dead_code()
    graph_module.delete_all_unused_submodules()
    _drop_unused_parameters(graph_module)
    graph_module.recompile()
    _require_same_outputs(model, graph_module)
    return graph_module


def _export(model: Model) -> fx.GraphModule:
    shapes = tuple({0: Dim.DYNAMIC} if model.dynamic_batch else None for _ in model.example_inputs)
    # A batch of 1 would be taken for a constant; two samples keep the dimension symbolic.
    inputs = tuple(
        torch.cat([x, x]) if model.dynamic_batch and x.shape[0] == 1 else x for x in model.example_inputs
    )
    try:
        with torch.no_grad():
            program = torch.export.export(copy.deepcopy(model.module).eval(), inputs, dynamic_shapes=shapes)
    except Exception as error:  # torch.export raises whatever the traced code raises
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CompressError(
            f"{model.source or type(model.module).__name__}: torch.export cannot capture this network as one "
            f"graph: {first_line}. Remove data-dependent Python control flow from forward()"
            + (", or set export.dynamic_batch: false in the recipe." if model.dynamic_batch else ".")
        ) from error
    module = program.module(check_guards=False)
    assert isinstance(module, fx.GraphModule)
    module.meta["captured"] = True
    return module


def _is_inference_identity(node: fx.Node) -> bool:
    """Whether the node only passes its first argument on in eval mode."""
    if node.op == "call_module" and node.target == "_guards_fn":
        return True
    return node.op == "call_function" and node.target in (
        aten.dropout.default,
        aten.dropout_.default,
        aten.feature_dropout.default,
        aten.alpha_dropout.default,
        aten.detach.default,
        aten.alias.default,
        aten.lift_fresh_copy.default,
    )


def _drop(module: fx.GraphModule, unwanted: Callable[[fx.Node], bool]) -> None:
    for node in list(module.graph.nodes):
        if not unwanted(node):
            continue
        if node.users:
            node.replace_all_uses_with(node.args[0])
        module.graph.erase_node(node)


def _make_functional(module: fx.GraphModule) -> None:
    """Turn relu_, add_ and their like into relu, add: a quantizer must never see its input change under it."""
    order = {node: position for position, node in enumerate(module.graph.nodes)}
    for node in module.graph.nodes:
        if not isinstance(node.target, torch._ops.OpOverload) or not node.target._schema.is_mutable:
            continue
        namespace, _, name = node.target._schema.name.partition("::")
        if not name.endswith("_") or not isinstance(node.args[0], fx.Node):
            continue
        packet = getattr(getattr(torch.ops, namespace), name[:-1], None)
        overload = getattr(packet, node.target._overloadname, None)
        if overload is None:
            continue
        node.target = overload
        mutated = node.args[0]
        mutated.replace_all_uses_with(
            node, delete_user_cb=lambda user, here=node: order[user] > order[here]
        )


def _decompose_attention(module: fx.GraphModule) -> None:
    """softmax(q k^T / sqrt(d) + mask) v as matmuls, which runtimes can execute in INT8."""
    for node in list(module.graph.nodes):
        if node.target is not aten.scaled_dot_product_attention.default:
            continue
        arguments = _named_arguments(node)
        query, key, value = arguments["query"], arguments["key"], arguments["value"]
        if arguments["is_causal"] or arguments["enable_gqa"]:
            continue
        scale = arguments["scale"] or 1.0 / math.sqrt(query.meta["val"].shape[-1])
        with module.graph.inserting_before(node):
            call = module.graph.call_function
            # Scale the scores, not q: then q, k and v stay the tensor that the layer before them produced,
            # which is quantized once, and runtimes fuse the scale into the matmul.
            products = call(aten.matmul.default, (query, call(aten.transpose.int, (key, -2, -1))))
            scores = call(aten.mul.Tensor, (products, scale))
            mask = arguments["attn_mask"]
            if mask is not None:
                if mask.meta["val"].dtype == torch.bool:
                    mask = call(aten.where.ScalarOther, (mask, 0.0, -math.inf))
                scores = call(aten.add.Tensor, (scores, mask))
            weights = call(aten.softmax.int, (scores, -1))
            attended = call(aten.matmul.default, (weights, value))
        owner = _owner(node) or node.name
        products.meta["layer"], attended.meta["layer"] = f"{owner}.scores", f"{owner}.values"
        _note_shapes([products, scores, weights, attended], query, key, value)
        node.replace_all_uses_with(attended)
        module.graph.erase_node(node)


def _owner(node: fx.Node) -> str:
    """The path of the module whose forward() called the operator, "" when it is not known."""
    stack = node.meta.get("nn_module_stack") or {}
    path, _ = list(stack.values())[-1] if stack else ("", None)
    return str(path).removeprefix("L['self'].").replace("L['self']", "")


def _note_shapes(new: list[fx.Node], query: fx.Node, key: fx.Node, value: fx.Node) -> None:
    """Record what placement reads: (..., n_query, n_key) for the scores, (..., n_query, width) for the result."""
    q, k, v = (n.meta["val"] for n in (query, key, value))
    scores = q.new_empty((*q.shape[:-1], k.shape[-2]))
    for node in new[:-1]:
        node.meta["val"] = scores
    new[-1].meta["val"] = q.new_empty((*q.shape[:-1], v.shape[-1]))


def _named_arguments(node: fx.Node) -> dict[str, Any]:
    """All arguments of an operator call by name, defaults filled in."""
    assert isinstance(node.target, torch._ops.OpOverload)
    schema = node.target._schema.arguments
    named = {argument.name: argument.default_value for argument in schema}
    named.update(zip((argument.name for argument in schema), node.args, strict=False))
    named.update(node.kwargs)
    return named


def _fold_constants(module: fx.GraphModule) -> None:
    """Compute what depends on parameters alone (weight standardization, position-bias gathers), once."""
    constant: dict[fx.Node, Any] = {}
    for node in module.graph.nodes:
        if node.op == "get_attr":
            constant[node] = get_tensor(module, str(node.target))
        elif node.op == "call_function" and _computable(node, constant):
            arguments = fx.map_arg(node.args, lambda n: constant[n])
            keywords = fx.map_arg(node.kwargs, lambda n: constant[n])
            with torch.no_grad():
                constant[node] = node.target(*arguments, **keywords)
    for node in list(module.graph.nodes):
        if node.op != "call_function" or node not in constant or not isinstance(constant[node], Tensor):
            continue
        if any(user not in constant for user in node.users):
            name = f"folded_{node.name}"
            module.register_buffer(name, constant[node].detach().clone())
            with module.graph.inserting_before(node):
                folded = module.graph.get_attr(name)
            folded.meta["val"] = constant[node]
            node.replace_all_uses_with(folded, delete_user_cb=lambda user: user not in constant)
    module.graph.eliminate_dead_code()


def _computable(node: fx.Node, constant: dict[fx.Node, Any]) -> bool:
    """Whether all inputs are constants. Random operators and pure constructors stay in the graph."""
    inputs = node.all_input_nodes
    if not inputs or any(n not in constant for n in inputs):
        return False
    if node.target is operator.getitem:
        return True
    return isinstance(node.target, torch._ops.OpOverload) and torch.Tag.nondeterministic_seeded not in node.target.tags


def _fold_batch_norm(module: fx.GraphModule) -> None:
    """Fold each BatchNorm into the convolution or linear layer that alone feeds it."""
    for node in list(module.graph.nodes):
        if node.target not in (aten.batch_norm.default, aten._native_batch_norm_legit_no_training.default):
            continue
        producer = node.args[0]
        if producer.target not in (*CONVOLUTIONS, aten.linear.default) or len(producer.users) != 1:
            continue
        weight_node = producer.args[1]
        if weight_node.op != "get_attr" or len(weight_node.users) != 1:
            continue
        _fold_one(module, producer, node)


def _fold_one(module: fx.GraphModule, producer: fx.Node, norm: fx.Node) -> None:
    arguments = _named_arguments(norm)

    def tensor(name: str) -> Tensor | None:
        argument = arguments[name]
        return None if argument is None else get_tensor(module, str(argument.target))

    mean, variance = tensor("running_mean"), tensor("running_var")
    if mean is None or variance is None:  # normalizes with batch statistics: nothing constant to fold
        return
    gamma, beta = tensor("weight"), tensor("bias")
    scale = torch.rsqrt(variance.double() + arguments["eps"])
    if gamma is not None:
        scale = scale * gamma.double()
    weight_name = str(producer.args[1].target)
    weight = get_tensor(module, weight_name)
    bias_node = producer.args[2] if len(producer.args) > 2 else producer.kwargs.get("bias")
    bias = torch.zeros_like(mean) if bias_node is None else get_tensor(module, str(bias_node.target))
    shift = (bias.double() - mean.double()) * scale + (0.0 if beta is None else beta.double())
    folded = weight.double() * scale.reshape(-1, *([1] * (weight.dim() - 1)))
    set_tensor(module, weight_name, folded.to(weight.dtype))
    _set_bias(module, producer, shift.to(weight.dtype), weight_name)
    norm.replace_all_uses_with(producer)
    module.graph.erase_node(norm)


def _fold_channel_scale(module: fx.GraphModule) -> None:
    """Fold a multiplication by a constant per output channel (layer scale) into the layer that alone feeds it."""
    for node in list(module.graph.nodes):
        if node.target is not aten.mul.Tensor or not all(isinstance(a, fx.Node) for a in node.args[:2]):
            continue
        for producer, factor in (node.args[:2], node.args[1::-1]):
            if factor.op != "get_attr" or producer.target not in (*CONVOLUTIONS, aten.linear.default):
                continue
            weight_node = producer.args[1]
            if len(producer.users) != 1 or weight_node.op != "get_attr" or len(weight_node.users) != 1:
                continue
            scale = _per_channel(get_tensor(module, str(factor.target)), producer)
            if scale is None:
                continue
            weight_name = str(weight_node.target)
            weight = get_tensor(module, weight_name)
            bias_node = producer.args[2] if len(producer.args) > 2 else None
            set_tensor(module, weight_name, weight * scale.reshape(-1, *([1] * (weight.dim() - 1))))
            if bias_node is not None:
                _set_bias(module, producer, get_tensor(module, str(bias_node.target)) * scale, weight_name)
            node.replace_all_uses_with(producer)
            module.graph.erase_node(node)
            break


def _per_channel(factor: Tensor, producer: fx.Node) -> Tensor | None:
    """`factor` as one number per output channel of `producer`, shape (channels,), if that is what it is."""
    channels = producer.args[1].meta["val"].shape[0]  # type: ignore[union-attr]
    trailing = 0 if producer.target is aten.linear.default else producer.meta["val"].dim() - 2
    shape = (channels, *([1] * trailing))
    if factor.numel() != channels or tuple(factor.shape)[-len(shape) :] != shape:
        return None
    return factor.reshape(-1)


def _set_bias(module: fx.GraphModule, node: fx.Node, bias: Tensor, weight_name: str) -> None:
    """Give a convolution or linear node this bias, under a name next to its weight's."""
    existing = node.args[2] if len(node.args) > 2 else node.kwargs.get("bias")
    if existing is not None and len(existing.users) == 1:
        set_tensor(module, str(existing.target), bias)
        return
    stem = weight_name.rpartition(".")[0] if weight_name.endswith(".weight") else weight_name
    name = f"{stem}.folded_bias" if "." in weight_name else f"{stem}_folded_bias"
    set_tensor(module, name, bias)
    with module.graph.inserting_before(node):
        bias_node = module.graph.get_attr(name)
    bias_node.meta["val"] = bias
    arguments = list(node.args) + [None] * (3 - len(node.args))
    arguments[2] = bias_node
    node.args = tuple(arguments)
    node.kwargs = {key: value for key, value in node.kwargs.items() if key != "bias"}


def ensure_biases(module: fx.GraphModule, nodes: list[fx.Node]) -> None:
    """Give every convolution and linear node a bias of its own (zeros), for a correction to go into."""
    for node in nodes:
        existing = node.args[2] if len(node.args) > 2 else None
        if existing is not None and len(existing.users) == 1:
            continue
        weight_name = str(node.args[1].target)
        weight = get_tensor(module, weight_name)
        bias = torch.zeros(weight.shape[0]) if existing is None else get_tensor(module, str(existing.target))
        _set_bias(module, node, bias.clone(), weight_name)


def get_tensor(module: nn.Module, name: str) -> Tensor:
    """The parameter or buffer at a dotted name."""
    owner_name, _, attribute = name.rpartition(".")
    value = getattr(module.get_submodule(owner_name), attribute)
    assert isinstance(value, Tensor)
    return value.detach()


def set_tensor(module: nn.Module, name: str, value: Tensor) -> None:
    """Replace or add the tensor at a dotted name; what was a parameter stays one, what is new is a parameter."""
    owner_name, _, attribute = name.rpartition(".")
    owner = module.get_submodule(owner_name)
    if attribute in owner._buffers:
        owner._buffers[attribute] = value
    else:
        setattr(owner, attribute, nn.Parameter(value, requires_grad=False))


def _drop_unused_parameters(module: fx.GraphModule) -> None:
    used = {str(node.target) for node in module.graph.nodes if node.op == "get_attr"}
    for name in [*dict(module.named_parameters()), *dict(module.named_buffers())]:
        if name not in used:
            owner_name, _, attribute = name.rpartition(".")
            delattr(module.get_submodule(owner_name), attribute)


def _require_same_outputs(model: Model, captured: fx.GraphModule) -> None:
    """Refuse a capture that does not compute what the module computes."""
    expected = model.run(*model.example_inputs)
    with torch.no_grad():
        actual = captured(*model.example_inputs)
    for name, want, got in zip(model.output_names, expected, actual if isinstance(actual, tuple) else (actual,), strict=False):
        # Folding BatchNorm reorders float32 sums: 1e-3 of the largest output is far above that, far below a wrong graph.
        if (want - got).abs().max() > 1e-3 * want.abs().max().clamp(min=1e-6):
            raise CompressError(
                f"{model.source or type(model.module).__name__}: the captured graph's output '{name}' differs from the "
                "network's own. The network mutates tensors through views or draws random numbers in eval mode; "
                "make its forward() functional."
            )
