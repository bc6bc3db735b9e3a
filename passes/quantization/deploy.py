"""Deploy: a graph with fake quantizers to one whose Q/DQ every runtime executes in INT8.

Fake quantizers become two custom operators, written as QuantizeLinear and DequantizeLinear.
Weights become int8 constants behind a DequantizeLinear: OpenVINO runs a float weight behind Q/DQ in float.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..graph.operators import along, get_tensor
from .bucket_quantizers import BucketQuantizer, LearnedWeights, UniformWeights
from .quantizers import ActivationQuantizer, AnyWeightQuantizer, WeightQuantizer, quantizers_of

INT32 = 6  # in ONNX' numbering of types


@torch.library.custom_op("edgepress::quantize_dequantize", mutates_args=())
def quantize_dequantize(x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """Round `x` to the 8-bit grid of `zero_point`'s type (int8 or uint8), halves to even as ONNX does."""
    limits = torch.iinfo(zero_point.dtype)
    integers = torch.clamp(torch.round(x / scale) + zero_point, limits.min, limits.max)
    return (integers - zero_point) * scale


@quantize_dequantize.register_fake
def _(x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("edgepress::dequantize", mutates_args=())
def dequantize(integers: Tensor, scale: Tensor, axis: int) -> Tensor:
    """int8 weight to float32, one scale for each channel along `axis`."""
    return integers.to(torch.float32) * along(scale, axis, integers.dim())


@dequantize.register_fake
def _(integers: Tensor, scale: Tensor, axis: int) -> Tensor:
    return torch.empty_like(integers, dtype=torch.float32)


@torch.library.custom_op("edgepress::look_up", mutates_args=())
def look_up(levels: Tensor, points: Tensor, alpha: Tensor, beta: Tensor, shape: list[int]) -> Tensor:
    """Weight from the indices of its points: levels (buckets, k) uint8, points (n,), alpha and beta (buckets, 1).

    What fills up the last bucket is cut off; `shape` is that of the weight.
    """
    rows = points[levels.long()] * alpha + beta
    return rows.reshape(-1)[: math.prod(shape)].reshape(shape).clone()


@look_up.register_fake
def _(levels: Tensor, points: Tensor, alpha: Tensor, beta: Tensor, shape: list[int]) -> Tensor:
    return points.new_empty(shape)


def onnx_translations(opset: int) -> dict[Any, Callable[..., Any]]:
    """What `torch.onnx.export(custom_translation_table=...)` needs to write the operators above."""
    import onnxscript

    op = getattr(onnxscript, f"opset{opset}")  # each version has attributes that earlier ones refuse

    def write_quantize_dequantize(x, scale, zero_point):  # type: ignore[no-untyped-def]
        return op.DequantizeLinear(op.QuantizeLinear(x, scale, zero_point), scale, zero_point)

    def write_dequantize(integers, scale, axis: int):  # type: ignore[no-untyped-def]
        return op.DequantizeLinear(integers, scale, axis=axis)

    def write_look_up(levels, points, alpha, beta, shape: Sequence[int]):  # type: ignore[no-untyped-def]
        rows = op.Add(op.Mul(op.Gather(points, op.Cast(levels, to=INT32)), alpha), beta)
        flat = op.Reshape(rows, op.Constant(value_ints=[-1]))
        ends = (op.Constant(value_ints=[0]), op.Constant(value_ints=[math.prod(shape)]))
        return op.Reshape(op.Slice(flat, *ends), op.Constant(value_ints=list(shape)))

    return {
        torch.ops.edgepress.look_up.default: write_look_up,
        torch.ops.edgepress.quantize_dequantize.default: write_quantize_dequantize,
        torch.ops.edgepress.dequantize.default: write_dequantize,
    }


def deployable(module: nn.Module) -> nn.Module:
    """The module as it is exported: a copy with integer weights, or itself when nothing is quantized."""
    quantizers = quantizers_of(module)
    if not quantizers:
        return module
    assert isinstance(module, fx.GraphModule)
    deployed = copy.deepcopy(module)
    for node in list(deployed.graph.nodes):
        quantizer = quantizers.get(str(node.target)) if node.op == "call_module" else None
        if isinstance(quantizer, ActivationQuantizer):
            _write_activation(deployed, node, quantizer)
        elif quantizer is not None and _on_int8_grid(quantizer):
            _write_int8_weight(deployed, node, quantizer)
        elif isinstance(quantizer, (UniformWeights, LearnedWeights)):
            _write_levels(deployed, node, quantizer)
    deployed.graph.eliminate_dead_code()
    deployed.delete_all_unused_submodules()
    deployed.recompile()
    return deployed


def _write_activation(module: fx.GraphModule, node: fx.Node, quantizer: ActivationQuantizer) -> None:
    name = str(node.target).replace("activation_quantizer", "activation_grid")
    kind = torch.uint8 if quantizer.grid.unsigned else torch.int8
    if not hasattr(module, f"{name}_scale"):
        module.register_buffer(f"{name}_scale", quantizer.scale.detach().clone())
        module.register_buffer(f"{name}_zero_point", torch.tensor(quantizer.grid.zero_point, dtype=kind))
    with module.graph.inserting_before(node):
        scale = module.graph.get_attr(f"{name}_scale")
        zero_point = module.graph.get_attr(f"{name}_zero_point")
        written = module.graph.call_function(
            torch.ops.edgepress.quantize_dequantize.default, (node.args[0], scale, zero_point)
        )
    node.replace_all_uses_with(written)
    module.graph.erase_node(node)


def _on_int8_grid(quantizer: AnyWeightQuantizer) -> bool:
    """Whether the weight is int8 integers with a scale for each channel; buckets across channels are not."""
    return isinstance(quantizer, WeightQuantizer) or quantizer.bucket == "channel"


def _write_int8_weight(module: fx.GraphModule, node: fx.Node, quantizer: AnyWeightQuantizer) -> None:
    name, owner, attribute = _weight_of(module, node)
    if f"{attribute}_int8" not in owner._buffers:
        integers, scale = quantizer.int8(get_tensor(module, name))
        owner.register_buffer(f"{attribute}_int8", integers)
        owner.register_buffer(f"{attribute}_scale", scale)
    with module.graph.inserting_before(node):
        constants = [module.graph.get_attr(f"{name}_{part}") for part in ("int8", "scale")]
        written = module.graph.call_function(
            torch.ops.edgepress.dequantize.default, (*constants, quantizer.axis)
        )
    node.replace_all_uses_with(written)
    module.graph.erase_node(node)


def _write_levels(module: fx.GraphModule, node: fx.Node, quantizer: BucketQuantizer) -> None:
    """Integer indices and a Gather: the file is small, and runtimes compute the float weight once, when loading.

    Of tensors with a few thousand weights the exporter's constant folding makes floats already.
    """
    name, owner, attribute = _weight_of(module, node)
    weight = get_tensor(module, name)
    parts = ("levels", "points", "alpha", "beta")
    if f"{attribute}_levels" not in owner._buffers:
        stored = quantizer.levels(weight)
        for part in parts:
            value = getattr(stored, part).detach().clone()
            owner.register_buffer(f"{attribute}_{part}", value.to(torch.uint8) if part == "levels" else value)
    with module.graph.inserting_before(node):
        nodes = [module.graph.get_attr(f"{name}_{part}") for part in parts]
        written = module.graph.call_function(
            torch.ops.edgepress.look_up.default, (*nodes, list(weight.shape))
        )
    node.replace_all_uses_with(written)
    module.graph.erase_node(node)


def _weight_of(module: fx.GraphModule, node: fx.Node) -> tuple[str, nn.Module, str]:
    """The name of the tensor that a quantizer's node rounds, the module that owns it, and its name there."""
    weight = node.args[0]
    assert isinstance(weight, fx.Node)
    name = str(weight.target)
    owner_name, _, attribute = name.rpartition(".")
    return name, module.get_submodule(owner_name), attribute
