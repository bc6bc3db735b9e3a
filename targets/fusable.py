"""Q/DQ graphs rewritten, value for value, into forms that runtimes execute well: no output changes."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

import numpy as np

from .onnx_graph import MOVING_OPS, OnnxGraph

if TYPE_CHECKING:
    import onnx

OFFSET = 128
_CLAMPS = {"Relu", "Clip"}


def worth_it() -> bool:
    """Whether this machine's onnxruntime gains by it (ARM has kernels for signed activations)."""
    return platform.machine().lower() in {"x86_64", "amd64"}


def fusable(model: onnx.ModelProto) -> tuple[onnx.ModelProto, int]:
    """A copy that onnxruntime on x86 runs on its integer kernels (both changes below), and how many changes."""
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    added = quantize_before_clamps(copy)
    return copy, added + shift_to_unsigned(copy)


def shift_to_unsigned(model: onnx.ModelProto, products: bool = True) -> int:
    """Make int8 Q/DQ pairs at zero point 0 into uint8 at 128, in place; returns how many.

    (q + 128 - 128) x scale is the same number, and [-128, 127] + 128 the same range. Quantizers of constants
    (weights), and those that anything but DequantizeLinear reads, stay as they are; without `products` also those
    that a MatMul or Gemm reads, of which a runtime may have integer kernels for zero point 0 only.
    """
    from onnx import numpy_helper

    del model.graph.value_info[:]  # notes of types that are about to change
    graph = OnnxGraph(model)
    outputs = {value.name for value in model.graph.output}
    added: dict[tuple[int, ...], str] = {}
    changed = 0
    for _, quantizer in graph.of_type("QuantizeLinear"):
        readers = [graph.by_name[r] for r in graph.readers.get(quantizer.output[0], ())]
        pair = [quantizer, *readers]
        alike = all(_signed_zero(graph, node) for node in pair)
        only_pairs = readers and all(node.op_type == "DequantizeLinear" for node in readers)
        if (
            quantizer.input[0] in graph.constants
            or quantizer.output[0] in outputs
            or not (alike and only_pairs)
            or not (products or _only_convolutions(graph, quantizer))
        ):
            continue
        for node in pair:
            shape = tuple(graph.initializers[node.input[2]].dims)
            node.input[2] = added.setdefault(shape, f"zero_point_{OFFSET}_{len(added)}")
        changed += 1
    for shape, name in added.items():
        model.graph.initializer.append(numpy_helper.from_array(np.full(shape, OFFSET, np.uint8), name))
    return changed


def _only_convolutions(graph: OnnxGraph, quantizer: onnx.NodeProto) -> bool:
    """Whether no MatMul or Gemm reads what `quantizer` writes, also through what only moves values."""
    tensors, seen = [*quantizer.output], set(quantizer.output)
    while tensors:
        for reader in (graph.by_name[name] for name in graph.readers.get(tensors.pop(), ())):
            if reader.op_type in ("MatMul", "Gemm"):
                return False
            if reader.op_type == "DequantizeLinear" or reader.op_type in MOVING_OPS:
                new = [output for output in reader.output if output not in seen]
                tensors += new
                seen.update(new)
    return True


def quantize_before_clamps(model: onnx.ModelProto) -> int:
    """Put a Q/DQ pair of the same grid before each Relu or Clip that is quantized right after, in place.

    Rounding is monotone, so it commutes with a clamp: Q(clamp(x)) = Q(clamp(DQ(Q(x)))). onnxruntime needs a
    layer's own output quantized to run it in integers; only a clamp that the grid does itself is folded away.
    Returns how many pairs were put in.
    """
    from onnx import helper

    graph = OnnxGraph(model)
    nodes: list[onnx.NodeProto] = []
    before: dict[str, list[onnx.NodeProto]] = {}
    for name, quantizer in graph.of_type("QuantizeLinear"):
        clamp_name = graph.producer.get(quantizer.input[0], "")
        clamp = graph.by_name.get(clamp_name)
        if clamp is None or clamp.op_type not in _CLAMPS or _clamps_nothing(graph, clamp, quantizer):
            continue
        source = clamp.input[0]
        sole = len(graph.readers[quantizer.input[0]]) == 1 and len(graph.readers[source]) == 1
        maker = graph.by_name.get(graph.producer.get(source, ""))
        if not sole or maker is None or maker.op_type == "DequantizeLinear":
            continue
        grid = list(quantizer.input[1:])
        pair = [f"{name}_ahead_q", f"{name}_ahead"]
        before[clamp_name] = [
            helper.make_node("QuantizeLinear", [source, *grid], pair[:1], pair[0]),
            helper.make_node("DequantizeLinear", [pair[0], *grid], pair[1:], pair[1]),
        ]
        clamp.input[0] = pair[1]
    for name, node in graph.by_name.items():
        nodes += [*before.get(name, ()), node]
    if before:
        ordered = [type(node).FromString(node.SerializeToString()) for node in nodes]
        del model.graph.node[:]
        model.graph.node.extend(ordered)
    return len(before)


def _clamps_nothing(graph: OnnxGraph, clamp: onnx.NodeProto, quantizer: onnx.NodeProto) -> bool:
    """Whether the grid lies within the clamp's bounds; True also where it is not a per-tensor one."""
    scale = graph.value(quantizer.input[1])
    zero = graph.value(quantizer.input[2]) if len(quantizer.input) > 2 else None
    bounds = [graph.value(tensor) for tensor in clamp.input[1:] if tensor]
    if scale is None or zero is None or scale.size != 1 or any(bound is None for bound in bounds):
        return True
    limits = [float(bound.item()) if bound is not None else 0.0 for bound in bounds]
    bounded_below = len(clamp.input) > 1 and clamp.input[1]
    low = 0.0 if clamp.op_type == "Relu" else limits[0] if bounded_below else -np.inf
    high = limits[-1] if len(clamp.input) > 2 and clamp.input[2] else np.inf
    grid = np.iinfo(zero.dtype)
    steps = [(end - int(zero.item())) * float(scale.item()) for end in (grid.min, grid.max)]
    return steps[0] >= low and steps[1] <= high


def _signed_zero(graph: OnnxGraph, node: onnx.NodeProto) -> bool:
    zero = graph.value(node.input[2]) if len(node.input) > 2 and node.input[2] in graph.initializers else None
    return zero is not None and zero.dtype == np.int8 and not np.any(zero)
