"""Q/DQ graphs rewritten, value for value, into forms that runtimes execute well: no output changes."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .onnx_graph import MOVING_OPS, OnnxGraph

if TYPE_CHECKING:
    import onnx

OFFSET = 128
CLIP_WITH_INPUTS = 11  # the opset in which Clip's bounds became inputs
_INT8_MAX = 127
_CLAMPS = {"Relu", "Clip"}
_PRODUCTS = {"MatMul", "Gemm"}
_INTEGER_MOVES = {"Slice", "Concat"}  # as `portable` wraps an image around

# Ops of one computed input whose output is nowhere negative where that input is not. (Q/DQ are among them as their
# zero point is a number of their grid.)
_KEEP_SIGN = {
    "ReduceMean", "GlobalAveragePool", "AveragePool", "MaxPool", "Reshape", "Flatten", "Squeeze", "Unsqueeze",
    "Transpose", "Identity", "QuantizeLinear", "DequantizeLinear",
}  # fmt: skip


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
    pairs = [pair for pair in _signed_pairs(graph) if products or not any(_products(graph, pair[0]))]
    _make_unsigned(graph, pairs, OFFSET)
    return len(pairs)


def trim_to_unsigned(model: onnx.ModelProto) -> int:
    """Make int8 Q/DQ pairs at zero point 0 of what is never negative into uint8 at 0, in place; returns how many.

    The integers there are 0 to 127, which uint8 holds too, and layers read them without a correction. A Clip ends
    them (the Relu itself, if there is one), or uint8 would go on to 255. Stays as it is: what a product of two
    activations reads, and what is quantized from a Relu that has other readers.
    """
    graph = OnnxGraph(model)
    if graph.opset < CLIP_WITH_INPUTS:
        return 0
    del model.graph.value_info[:]
    pairs = [pair for pair in _signed_pairs(graph) if _trimmable(graph, pair[0])]
    before: dict[str, list[onnx.NodeProto]] = {}
    for quantizer, *_ in pairs:
        high = _INT8_MAX * np.asarray(graph.value(quantizer.input[1])).reshape(())
        clamp = graph.by_name[graph.producer[quantizer.input[0]]]
        if clamp.op_type in _CLAMPS:
            low, end = _bounds(graph, clamp) or (0.0, np.inf)
            clamp.op_type = "Clip"
            clamp.input[1:] = _ends(
                graph, clamp.output[0], low, np.minimum(high, np.asarray(end, high.dtype))
            )
        else:
            before[graph.producer[quantizer.output[0]]] = [_clip_ahead(graph, quantizer, high)]
    _make_unsigned(graph, pairs, 0)
    _insert(graph, before)
    return len(pairs)


def _trimmable(graph: OnnxGraph, quantizer: onnx.NodeProto) -> bool:
    tensor, scale = quantizer.input[0], graph.value(quantizer.input[1])
    maker = graph.by_name.get(graph.producer.get(tensor, ""))
    clamped = maker is not None and maker.op_type in _CLAMPS
    shared = len(graph.readers[tensor]) > 1 or tensor in {value.name for value in graph.model.graph.output}
    return (
        scale is not None
        and scale.size == 1
        and _never_negative(graph, tensor)
        and not (clamped and shared)
        and all(_times_constant(graph, product) for product in _products(graph, quantizer))
    )


def _clip_ahead(graph: OnnxGraph, quantizer: onnx.NodeProto, high: np.ndarray[Any, Any]) -> onnx.NodeProto:
    """A new Clip from 0 to `high` that `quantizer` reads from now on."""
    from onnx import helper

    tensor, trimmed = quantizer.input[0], f"{quantizer.output[0]}_trimmed"
    quantizer.input[0] = trimmed
    return helper.make_node("Clip", [tensor, *_ends(graph, trimmed, 0.0, high)], [trimmed], trimmed)


def _ends(graph: OnnxGraph, tensor: str, low: float, high: np.ndarray[Any, Any]) -> list[str]:
    """The names of two new constants, the bounds of the Clip that makes `tensor`."""
    from onnx import numpy_helper

    names = [f"{tensor}_trim_low", f"{tensor}_trim_high"]
    for name, end in zip(names, (low, high), strict=True):
        graph.model.graph.initializer.append(numpy_helper.from_array(np.asarray(end, high.dtype), name))
    return names


def _never_negative(graph: OnnxGraph, tensor: str) -> bool:
    """Whether a Relu, or a Clip from 0 or more, ends below all that `tensor` holds."""
    while True:
        node = graph.by_name.get(graph.producer.get(tensor, ""))
        if node is None:
            return False
        if node.op_type in _CLAMPS:
            bounds = _bounds(graph, node)
            return bounds is not None and bounds[0] >= 0
        if node.op_type not in _KEEP_SIGN:
            return False
        tensor = node.input[0]


def _signed_pairs(graph: OnnxGraph) -> list[list[onnx.NodeProto]]:
    """Each quantizer that may become unsigned, with the DequantizeLinear nodes that read it."""
    outputs = {value.name for value in graph.model.graph.output}
    pairs = []
    for _, quantizer in graph.of_type("QuantizeLinear"):
        readers = _dequantizers(graph, quantizer)
        alike = all(_signed_zero(graph, node) for node in [quantizer, *readers])
        if (
            quantizer.input[0] not in graph.constants
            and quantizer.output[0] not in outputs
            and alike
            and readers
        ):
            pairs.append([quantizer, *readers])
    return pairs


def _dequantizers(graph: OnnxGraph, quantizer: onnx.NodeProto) -> list[onnx.NodeProto]:
    """The DequantizeLinear nodes that read a quantizer, also over slices that are put together; empty if others do."""
    tensors, found = [*quantizer.output], []
    for tensor in tensors:  # grows
        for node in (graph.by_name[name] for name in dict.fromkeys(graph.readers.get(tensor, ()))):
            if node.op_type == "DequantizeLinear":
                found.append(node)
            elif node.op_type not in _INTEGER_MOVES:
                return []
            elif node.output[0] not in tensors:
                tensors.append(node.output[0])
    concatenated = [n for t in tensors for n in (graph.by_name[graph.producer[t]],) if n.op_type == "Concat"]
    return found if all(set(node.input) <= set(tensors) for node in concatenated) else []


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


def _products(graph: OnnxGraph, quantizer: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    """The MatMul and Gemm nodes that read what `quantizer` writes, also through what only moves values."""
    tensors, seen = [*quantizer.output], set(quantizer.output)
    while tensors:
        for reader in (graph.by_name[name] for name in graph.readers.get(tensors.pop(), ())):
            if reader.op_type in _PRODUCTS:
                yield reader
            if reader.op_type == "DequantizeLinear" or reader.op_type in MOVING_OPS:
                new = [output for output in reader.output if output not in seen]
                tensors += new
                seen.update(new)


def _times_constant(graph: OnnxGraph, product: onnx.NodeProto) -> bool:
    """Whether the second factor is a weight."""
    return product.input[1] in graph.constants


def quantize_before_clamps(model: onnx.ModelProto) -> int:
    """Put a Q/DQ pair of the same grid before each Relu or Clip that is quantized right after, in place.

    Rounding is monotone, so it commutes with a clamp: Q(clamp(x)) = Q(clamp(DQ(Q(x)))). onnxruntime needs a
    layer's own output quantized to run it in integers; only a clamp that the grid does itself is folded away.
    Returns how many pairs were put in.
    """
    from onnx import helper

    graph = OnnxGraph(model)
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
    _insert(graph, before)
    return len(before)


def _insert(graph: OnnxGraph, before: Mapping[str, Sequence[onnx.NodeProto]]) -> None:
    """Put the nodes `before[name]` ahead of the node `name`, in place; `graph` does not know of them."""
    nodes = [new for name, node in graph.by_name.items() for new in (*before.get(name, ()), node)]
    if before:
        ordered = [type(node).FromString(node.SerializeToString()) for node in nodes]
        del graph.model.graph.node[:]
        graph.model.graph.node.extend(ordered)


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
