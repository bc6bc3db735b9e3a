"""Capture: any module to one canonical ATen graph, in which nothing hides from the quantizers.

Subclassed layers, functional calls and fused attention all become the same few operators, so that placement
looks at operators and never at Python types. Every rewrite here keeps the outputs to float error.
"""

from __future__ import annotations

import copy
import logging
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import replace
from io import StringIO

import torch
from torch import fx
from torch.export import Dim, ShapesCollection

from ...errors import CompressError
from ...model import Model, file_name
from .folding import fold_batch_norm, fold_channel_scale, fold_constants
from .layers import layer_name, layers_of
from .operators import aten, named_arguments, owner_of
from .regions import inline_regions
from .sharing import separate_kinds

DROPOUTS = (
    aten.dropout.default,
    aten.dropout_.default,
    aten.feature_dropout.default,
    aten.feature_dropout_.default,
    aten.alpha_dropout.default,
    aten.feature_alpha_dropout.default,
)


def capture(model: Model) -> fx.GraphModule:
    """The canonical graph of `model`: BatchNorm folded, attention as matmuls, constants computed.

    Parameters stay under their own names (`features.0.weight`); node names are the same in every process.
    Raises CompressError when the module cannot be captured as one graph.
    """
    if isinstance(model.module, fx.GraphModule) and model.module.meta.get("captured"):
        return copy.deepcopy(model.module)
    graph_module = _export(model)
    inline_regions(graph_module, model.source or type(model.module).__name__)
    _drop(graph_module, _is_inference_identity)
    fold_constants(graph_module)
    _make_functional(graph_module)
    _decompose_attention(graph_module)
    fold_constants(graph_module)  # what attention's masks became
    separate_kinds(graph_module)
    fold_batch_norm(graph_module)
    fold_channel_scale(graph_module)
    graph_module.graph.eliminate_dead_code()
    graph_module.delete_all_unused_submodules()
    _drop_unused_parameters(graph_module)
    graph_module.recompile()
    for layer in layers_of(graph_module):
        # Still known once a quantizer stands before the weight.
        layer.meta["layer"] = file_name(model.module, layer_name(layer))
    _require_same_outputs(model, graph_module)
    return graph_module


def _export(model: Model) -> fx.GraphModule:
    # A batch of 1 would be taken for a constant; two samples keep the dimension symbolic.
    inputs = tuple(
        torch.cat([x, x]) if model.dynamic_batch and x.shape[0] == 1 else x for x in model.example_inputs
    )
    shapes = ShapesCollection()  # type: ignore[no-untyped-call]  # by tensor, as forward() may take its inputs by name or as *inputs
    for x in inputs:
        shapes[x] = {0: Dim.DYNAMIC}
    module = copy.deepcopy(model.module).eval()
    dynamic_shapes = shapes if model.dynamic_batch else None
    try:
        with quiet(), torch.no_grad():
            program = torch.export.export(module, inputs, dynamic_shapes=dynamic_shapes)
    except Exception as error:  # torch.export raises whatever the traced code raises
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CompressError(
            f"{model.source or type(model.module).__name__}: torch.export cannot capture this network as one "
            f"graph: {first_line}. Remove data-dependent Python control flow from forward()"
            + (", or set export.dynamic_batch: false in the recipe." if model.dynamic_batch else ".")
        ) from error
    captured = program.module(check_guards=False)
    assert isinstance(captured, fx.GraphModule)
    captured.meta["captured"] = True
    return captured


@contextmanager
def quiet() -> Iterator[None]:
    """Tracing and exporting log every step they take; what matters comes back as an error or in a proof.

    Where torch.export fails it writes the whole graph so far to standard error, of a thousand lines and more.
    """
    names = (
        "torch.onnx",
        "torch.export",
        "torch._subclasses.fake_tensor",
        "torch.fx.experimental.symbolic_shapes",
    )
    loggers = [logging.getLogger(name) for name in (*names, "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), redirect_stderr(StringIO()):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _is_inference_identity(node: fx.Node) -> bool:
    """Whether the node only passes its first argument on in eval mode."""
    if node.op == "call_module" and node.target == "_guards_fn":
        return True
    if node.target is aten._assert_tensor_metadata.default:
        return True  # it names the device of the capture, and fails on any other
    if node.target in DROPOUTS:
        return not named_arguments(node)["train"]  # F.dropout() without training=self.training always draws
    return node.target in (aten.detach.default, aten.alias.default, aten.lift_fresh_copy.default)


def _drop(module: fx.GraphModule, unwanted: Callable[[fx.Node], bool]) -> None:
    for node in list(module.graph.nodes):
        if not unwanted(node):
            continue
        if node.users:
            node.replace_all_uses_with(node.args[0])
        module.graph.erase_node(node)


def _make_functional(module: fx.GraphModule) -> None:
    """Turn relu_, add_ and their like into relu, add: a quantizer's input must not change under it."""
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
        for user in list(node.args[0].users):
            if order[user] > order[node]:
                user.replace_input_with(node.args[0], node)


def _decompose_attention(module: fx.GraphModule) -> None:
    """softmax(q k^T / sqrt(d) + mask) v as matmuls, which runtimes can execute in INT8."""
    for node in list(module.graph.nodes):
        if node.target is not aten.scaled_dot_product_attention.default:
            continue
        arguments = named_arguments(node)
        query, key, value = arguments["query"], arguments["key"], arguments["value"]
        if arguments["is_causal"] or arguments["enable_gqa"] or arguments["dropout_p"]:
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
                    mask = call(aten.where.Scalar, (mask, 0.0, -math.inf))
                scores = call(aten.add.Tensor, (scores, mask))
            weights = call(aten.softmax.int, (scores, -1))
            attended = call(aten.matmul.default, (weights, value))
        owner = owner_of(node) or node.name
        products.meta["layer"], attended.meta["layer"] = f"{owner}.scores", f"{owner}.values"
        _note_shapes([products, scores, weights, attended], query, key, value)
        node.replace_all_uses_with(attended)
        module.graph.erase_node(node)


def _note_shapes(new: list[fx.Node], query: fx.Node, key: fx.Node, value: fx.Node) -> None:
    """Note the shapes: (..., n_query, n_key) for the scores, (..., n_query, width) for the result."""
    q, k, v = (n.meta["val"] for n in (query, key, value))
    scores = q.new_empty((*q.shape[:-1], k.shape[-2]))
    for node in new[:-1]:
        node.meta["val"] = scores
    new[-1].meta["val"] = q.new_empty((*q.shape[:-1], v.shape[-1]))


def _drop_unused_parameters(module: fx.GraphModule) -> None:
    used = {str(node.target) for node in module.graph.nodes if node.op == "get_attr"}
    for name in [*dict(module.named_parameters()), *dict(module.named_buffers())]:
        if name not in used:
            owner_name, _, attribute = name.rpartition(".")
            delattr(module.get_submodule(owner_name), attribute)


def _require_same_outputs(model: Model, captured: fx.GraphModule) -> None:
    """Refuse a capture that does not compute what the module computes."""
    expected = model.run(*model.example_inputs)
    actual = replace(model, module=captured).run(*model.example_inputs)
    for name, want, got in zip(model.output_names, expected, actual, strict=False):
        want, got = want.double(), got.double()
        # Folding reorders float32 sums: 1e-3 of the largest output is far above, and below a wrong graph.
        if not bool((want - got).abs().max() <= 1e-3 * want.abs().max().clamp(min=1e-6)):
            raise CompressError(
                f"{model.source or type(model.module).__name__}: the captured graph's output '{name}' differs"
                " from the network's own. The network mutates tensors through views, draws random numbers in"
                " eval mode or gives NaN; make its forward() functional."
            )
