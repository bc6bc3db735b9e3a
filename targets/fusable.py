"""Q/DQ graphs rewritten, value for value, into forms that runtimes execute well: no output changes."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

import numpy as np

from .onnx_graph import MOVING_OPS, OnnxGraph

if TYPE_CHECKING:
    import onnx

OFFSET = 128
CLIP_WITH_INPUTS = 11  # the opset in which Clip's bounds became inputs
_INT8_MAX = 127
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
    del model.graph.value_info[:]  # notes of types that are about to change
    graph = OnnxGraph(model)
    pairs = _signed_pairs(graph, products)
    _make_unsigned(graph, pairs, OFFSET)
    return len(pairs)


def trim_to_unsigned(model: onnx.ModelProto) -> int:
    """Make int8 Q/DQ pairs at zero point 0 behind a Relu into uint8 at 0, in place; returns how many.

    Nothing there is negative, so the integers are 0 to 127, which uint8 holds too; the Relu becomes a Clip, or
    uint8 would go on to 255. Convolutions read a zero point of 0 without a correction. What `shift_to_unsigned`
    leaves without `products` stays here too, and what is quantized from a Relu that has other readers.
    """
    from onnx import numpy_helper

    graph = OnnxGraph(model)
    if graph.opset < CLIP_WITH_INPUTS:
        return 0
    del model.graph.value_info[:]
    outputs = {value.name for value in model.graph.output}
    pairs = []
    for pair in _signed_pairs(graph, products=False):
        tensor, scale = pair[0].input[0], graph.value(pair[0].input[1])
        clamp = graph.by_name.get(graph.producer.get(tensor, ""))
        shared = len(graph.readers[tensor]) > 1 or tensor in outputs
        bounds = _bounds(graph, clamp) if clamp is not None and clamp.op_type in _CLAMPS else None
        if clamp is None or bounds is None or bounds[0] != 0 or shared or scale is None or scale.size != 1:
            continue
        high = min(bounds[1], _INT8_MAX * float(scale.item()))
        clamp.op_type = "Clip"
        clamp.input[1:] = [f"{tensor}_trim_low", f"{tensor}_trim_high"]
        for name, end in zip(clamp.input[1:], (0.0, high), strict=True):
            model.graph.initializer.append(numpy_helper.from_array(np.asarray(end, scale.dtype), name))
        pairs.append(pair)
    _make_unsigned(graph, pairs, 0)
    return len(pairs)


def _signed_pairs(graph: OnnxGraph, products: bool) -> list[list[onnx.NodeProto]]:
    """Each quantizer that may become unsigned, with the DequantizeLinear nodes that read it."""
    outputs = {value.name for value in graph.model.graph.output}
    pairs = []
    for _, quantizer in graph.of_type("QuantizeLinear"):
        readers = [graph.by_name[r] for r in graph.readers.get(quantizer.output[0], ())]
        pair = [quantizer, *readers]
        alike = all(_signed_zero(graph, node) for node in pair)
        only_pairs = readers and all(node.op_type == "DequantizeLinear" for node in readers)
        if (
            quantizer.input[0] not in graph.constants
            and quantizer.output[0] not in outputs
            and alike
            and only_pairs
            and (products or _only_convolutions(graph, quantizer))
        ):
            pairs.append(pair)
    return pairs


def _make_unsigned(graph: OnnxGraph, pairs: list[list[onnx.NodeProto]], zero: int) -> None:
    """Give the nodes of `pairs` the zero point `zero` of uint8, in the shape of the one they have."""
    from onnx import numpy_helper

    added: dict[tuple[int, ...], str] = {}
    for pair in pairs:
        for node in pair:
            shape = tuple(graph.initializers[node.input[2]].dims)
            node.input[2] = added.setdefault(shape, f"zero_point_{zero}_{len(added)}")
    for shape, name in added.items():
        array = np.full(shape, zero, np.uint8)
        graph.model.graph.initializer.append(numpy_helper.from_array(array, name))


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
    bounds = _bounds(graph, clamp)
    if scale is None or zero is None or scale.size != 1 or bounds is None:
        return True
    grid = np.iinfo(zero.dtype)
    steps = [(end - int(zero.item())) * float(scale.item()) for end in (grid.min, grid.max)]
    return steps[0] >= bounds[0] and steps[1] <= bounds[1]


def _bounds(graph: OnnxGraph, clamp: onnx.NodeProto) -> tuple[float, float] | None:
    """What a Relu, or a Clip with its bounds as inputs, clamps to; None where that is computed."""
    bounds = [0.0 if clamp.op_type == "Relu" else -np.inf, np.inf]
    for place, tensor in enumerate(clamp.input[1:]):
        value = graph.value(tensor) if tensor else None
        if tensor and value is None:
            return None
        bounds[place] = float(value.item()) if value is not None else bounds[place]
    return bounds[0], bounds[1]


def _signed_zero(graph: OnnxGraph, node: onnx.NodeProto) -> bool:
    zero = graph.value(node.input[2]) if len(node.input) > 2 and node.input[2] in graph.initializers else None
    return zero is not None and zero.dtype == np.int8 and not np.any(zero)
