"""Deploy: a graph with fake quantizers to one whose Q/DQ every runtime executes in INT8.

Fake quantizers become two custom operators, written as QuantizeLinear and DequantizeLinear.
Weights become int8 constants behind a DequantizeLinear: OpenVINO runs a float weight behind Q/DQ in float.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from .operators import along, get_tensor
from .quantizers import ActivationQuantizer, WeightQuantizer, quantizers_of


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


def onnx_translations(opset: int) -> dict[Any, Callable[..., Any]]:
    """What `torch.onnx.export(custom_translation_table=...)` needs to write the operators above."""
    import onnxscript

    op = getattr(onnxscript, f"opset{opset}")  # each version has attributes that earlier ones refuse

    def write_quantize_dequantize(x, scale, zero_point):  # type: ignore[no-untyped-def]
        return op.DequantizeLinear(op.QuantizeLinear(x, scale, zero_point), scale, zero_point)

    def write_dequantize(integers, scale, axis: int):  # type: ignore[no-untyped-def]
        return op.DequantizeLinear(integers, scale, axis=axis)

    return {
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
        elif isinstance(quantizer, WeightQuantizer):
            _write_weight(deployed, node, quantizer)
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


def _write_weight(module: fx.GraphModule, node: fx.Node, quantizer: WeightQuantizer) -> None:
    weight = node.args[0]
    assert isinstance(weight, fx.Node)
    name = str(weight.target)
    owner_name, _, attribute = name.rpartition(".")
    owner = module.get_submodule(owner_name)
    if f"{attribute}_int8" not in owner._buffers:
        owner.register_buffer(f"{attribute}_int8", quantizer.integers(get_tensor(module, name)))
        owner.register_buffer(f"{attribute}_scale", quantizer.scale.detach().clone())
    with module.graph.inserting_before(node):
        integers = module.graph.get_attr(f"{name}_int8")
        scale = module.graph.get_attr(f"{name}_scale")
        written = module.graph.call_function(
            torch.ops.edgepress.dequantize.default, (integers, scale, quantizer.axis)
        )
    node.replace_all_uses_with(written)
    module.graph.erase_node(node)
