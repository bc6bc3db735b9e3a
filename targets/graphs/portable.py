"""What runtimes refuse or compute wrongly, said in other operators, value for value: no output changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .onnx_graph import OnnxGraph

if TYPE_CHECKING:
    import onnx

PAD_WITH_INPUTS = 11  # the opset in which Pad's amounts became an input
_END = 2**63 - 1  # as Slice writes "to the end"
_KERNEL_READERS = {"Conv": 0, "ConvTranspose": 1, "Gemm": 2, "MatMul": 2}


def portable(model: onnx.ModelProto) -> int:
    """Rewrite `model` in place; how many nodes were rewritten. A model without such nodes stays as it is.

    Pad that wraps around (OpenVINO refuses it) becomes slices and a concatenation. AveragePool that both rounds
    its size up and counts its padding (OpenVINO's in float and onnxruntime's in integers are wrong) becomes
    Pad and AveragePool. A kernel that layers of two kinds read (OpenVINO computes one of them wrongly, or dies) is
    stored for each. Graphs inside If and Loop stay.
    """
    changed = _wraps_to_slices(model) + _pools_to_pad(model) + _split_kernels(model)
    if changed:
        del model.graph.value_info[:]  # may speak of tensors that are no more
    return changed


class _Rewriter:
    """Nodes and constants that are put in the place of old nodes."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.graph = OnnxGraph(model)
        self.shapes = _shapes(model)
        self._taken = {*self.graph.names, *self.graph.producer, *self.graph.initializers}
        self._instead: dict[str, list[onnx.NodeProto]] = {}

    def name(self, wish: str) -> str:
        """`wish`, or with a number after it where it is taken."""
        found, count = wish, 1
        while found in self._taken:
            found, count = f"{wish}_{count}", count + 1
        self._taken.add(found)
        return found

    def constant(self, wish: str, values: Any, dtype: Any = np.int64) -> str:
        """The name of a new initializer."""
        from onnx import numpy_helper

        name = self.name(wish)
        self.model.graph.initializer.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def node(self, kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> onnx.NodeProto:
        """A new node, which bears the name of its output."""
        from onnx import helper

        return helper.make_node(kind, list(inputs), [output], self.name(f"{output}_{kind}"), **attributes)

    def replace(self, name: str, nodes: list[onnx.NodeProto]) -> None:
        """`nodes` in the place of the node `name`, when `finish` is called."""
        self._instead[name] = nodes

    def add_after(self, old: onnx.NodeProto, new: onnx.NodeProto) -> None:
        """`new` right behind `old`, which stays."""
        name = next(name for name, node in self.graph.by_name.items() if node is old)
        self._instead.setdefault(name, [old]).append(new)

    def finish(self) -> int:
        """Write the graph anew; how many nodes were replaced."""
        if self._instead:
            nodes = [n for name, old in self.graph.by_name.items() for n in self._instead.get(name, [old])]
            copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
            del self.model.graph.node[:]
            self.model.graph.node.extend(copies)
        return len(self._instead)


def _shapes(model: onnx.ModelProto) -> dict[str, tuple[int | None, ...]]:
    """Sizes of the tensors whose rank is known; None for an axis that varies."""
    import onnx

    try:
        graph = onnx.shape_inference.infer_shapes(model).graph
    except Exception:  # a graph that onnx cannot follow: only what it states itself is known
        graph = model.graph
    values = [v for v in (*graph.input, *graph.value_info, *graph.output) if v.type.HasField("tensor_type")]
    return {
        v.name: tuple(
            d.dim_value if d.HasField("dim_value") else None for d in v.type.tensor_type.shape.dim
        )
        for v in values
        if v.type.tensor_type.HasField("shape")
    }  # fmt: skip


def _attribute(node: onnx.NodeProto, name: str, otherwise: Any) -> Any:
    from onnx import helper

    found = [a for a in node.attribute if a.name == name]
    return helper.get_attribute_value(found[0]) if found else otherwise


# -- Pad(mode=wrap)


def _wraps_to_slices(model: onnx.ModelProto) -> int:
    rewriter = _Rewriter(model)
    for name, node in rewriter.graph.of_type("Pad"):
        amounts = _wrapped_axes(rewriter, node)
        if amounts is not None:
            rewriter.replace(name, _wrapped(rewriter, node, amounts))
    return rewriter.finish()


def _wrapped_axes(rewriter: _Rewriter, node: onnx.NodeProto) -> dict[int, tuple[int, int]] | None:
    """Axis to (before, after) of a Pad that wraps, None of any other and of one that cannot be rewritten."""
    shape = rewriter.shapes.get(node.input[0])
    if _attribute(node, "mode", b"constant") != b"wrap" or shape is None or len(node.input) < 2:
        return None
    pads = rewriter.graph.value(node.input[1])
    axes = rewriter.graph.value(node.input[3]) if len(node.input) > 3 and node.input[3] else range(len(shape))
    if pads is None or axes is None:
        return None
    half = len(pads) // 2
    pairs = zip(axes, pads[:half], pads[half:], strict=True)
    amounts = {int(axis) % len(shape): (int(a), int(b)) for axis, a, b in pairs if a or b}
    for axis, ends in amounts.items():
        size = shape[axis]
        if min(ends) < 0 or (size is not None and max(ends) > size):
            return None  # crops, or goes around more than once
    return amounts


def _wrapped(
    rewriter: _Rewriter, node: onnx.NodeProto, amounts: dict[int, tuple[int, int]]
) -> list[onnx.NodeProto]:
    """Slices of each end beside the tensor; of its integers where it has them, or the layer after it runs in float."""
    grid = _grid(rewriter.graph, node.input[0])
    tensor = grid[0] if grid else node.input[0]
    output = rewriter.name(f"{node.output[0]}_integers") if grid else node.output[0]
    nodes: list[onnx.NodeProto] = []
    for place, (axis, (before, after)) in enumerate(amounts.items()):
        parts = [tensor]
        for size, start, end in ((before, -before, _END), (after, 0, after)):
            if not size:
                continue
            part = rewriter.name(f"{output}_{'end' if start else 'start'}_{axis}")
            bounds = [rewriter.constant(f"{part}_{what}", [n]) for what, n in
                      (("from", start), ("to", end), ("axis", axis))]  # fmt: skip
            nodes.append(rewriter.node("Slice", [tensor, *bounds], part))
            parts = [part, *parts] if start else [*parts, part]
        last = place == len(amounts) - 1
        joined = output if last else rewriter.name(f"{output}_{axis}")
        nodes.append(rewriter.node("Concat", parts, joined, axis=axis))
        tensor = joined
    if not nodes:
        return [rewriter.node("Identity", [node.input[0]], node.output[0])]
    if grid:
        nodes.append(rewriter.node("DequantizeLinear", [output, *grid[1:]], node.output[0]))
    return nodes


def _grid(graph: OnnxGraph, tensor: str) -> list[str]:
    """Integers, scale and zero point that `tensor` is dequantized from; empty unless one scale fits all of it."""
    maker = graph.by_name.get(graph.producer.get(tensor, ""))
    if maker is None or maker.op_type != "DequantizeLinear" or len(maker.input) < 3:
        return []
    scale = graph.value(maker.input[1])
    return list(maker.input) if scale is not None and scale.size == 1 else []


# -- AveragePool(ceil_mode, count_include_pad)


def _pools_to_pad(model: onnx.ModelProto) -> int:
    """The zeros that count become a Pad; those past the end, which do not count, become pads of the pool."""
    rewriter = _Rewriter(model)
    if rewriter.graph.opset < PAD_WITH_INPUTS:
        return 0
    for name, node in rewriter.graph.of_type("AveragePool"):
        shape = rewriter.shapes.get(node.input[0])
        pads = list(_attribute(node, "pads", []))
        rounds_up = _attribute(node, "ceil_mode", 0) and _attribute(node, "auto_pad", b"NOTSET") == b"NOTSET"
        sizes = shape[2:] if shape is not None else (None,)
        if rounds_up and _attribute(node, "count_include_pad", 0) and any(pads) and None not in sizes:
            rewriter.replace(name, _padded_pool(rewriter, node, [int(n or 0) for n in sizes], pads))
    return rewriter.finish()


def _padded_pool(
    rewriter: _Rewriter, node: onnx.NodeProto, sizes: list[int], pads: list[int]
) -> list[onnx.NodeProto]:
    from onnx import TensorProto

    rank, kernel = len(sizes), list(_attribute(node, "kernel_shape", []))
    strides = list(_attribute(node, "strides", [1] * rank))
    dilations = list(_attribute(node, "dilations", [1] * rank))
    past_end = [
        _past_end(sizes[i], pads[i], pads[rank + i], dilations[i] * (kernel[i] - 1) + 1, strides[i])
        for i in range(rank)
    ]
    output = node.output[0]
    padded = rewriter.name(f"{output}_padded")
    amounts = rewriter.constant(f"{padded}_by", [0, 0, *pads[:rank], 0, 0, *pads[rank:]])
    keep = {"dilations": dilations} if any(d != 1 for d in dilations) else {}
    dtype = next(
        (v.type.tensor_type.elem_type for v in rewriter.model.graph.value_info if v.name == node.input[0]),
        TensorProto.FLOAT,
    )
    zero = [] if dtype != TensorProto.FLOAT else [rewriter.constant(f"{padded}_with", 0.0, np.float32)]
    return [
        rewriter.node("Pad", [node.input[0], amounts, *zero], padded, mode="constant"),
        rewriter.node(
            "AveragePool", [padded], output, kernel_shape=kernel, strides=strides, pads=[0] * rank + past_end, **keep
        ),
    ]  # fmt: skip


def _past_end(size: int, before: int, after: int, kernel: int, stride: int) -> int:
    """How far the last window reaches past the padded input; one that would start in the padding is left out."""
    whole = size + before + after
    count = -((kernel - whole) // stride) + 1
    if (count - 1) * stride >= size + before:
        count -= 1
    return max(0, (count - 1) * stride + kernel - whole)


# -- kernels of two kinds of layer


def _split_kernels(model: onnx.ModelProto) -> int:
    """A copy of a kernel, and of its DequantizeLinear, for each further kind of layer that reads it."""
    rewriter = _Rewriter(model)
    graph = rewriter.graph
    copied = 0
    for tensor in graph.initializers:
        direct = [graph.by_name[r] for r in graph.readers.get(tensor, ())]
        makers: list[onnx.NodeProto | None] = [n for n in direct if n.op_type == "DequantizeLinear"]
        for maker in makers or [None]:
            source = maker.output[0] if maker is not None else tensor
            readers = [graph.by_name[r] for r in graph.readers.get(source, ())]
            kinds = {_KERNEL_READERS[n.op_type] for n in readers if _reads_kernel(n, source)}
            for kind in sorted(kinds)[1:]:
                layers = [n for n in readers if _KERNEL_READERS.get(n.op_type) == kind]
                _copy_kernel(rewriter, tensor, maker, layers)
                copied += 1
    rewriter.finish()
    return copied


def _reads_kernel(node: onnx.NodeProto, tensor: str) -> bool:
    return node.op_type in _KERNEL_READERS and tensor in node.input[:2]


def _copy_kernel(
    rewriter: _Rewriter, tensor: str, maker: onnx.NodeProto | None, layers: list[onnx.NodeProto]
) -> None:
    copy = rewriter.model.graph.initializer.add()
    copy.CopyFrom(rewriter.graph.initializers[tensor])
    copy.name = rewriter.name(f"{tensor}_of_{layers[0].op_type}")
    old, new = tensor, copy.name
    if maker is not None:
        old, new = maker.output[0], rewriter.name(f"{maker.output[0]}_of_{layers[0].op_type}")
        own = rewriter.node("DequantizeLinear", [copy.name, *maker.input[1:]], new)
        own.attribute.extend(maker.attribute)
        rewriter.add_after(maker, own)
    for node in layers:
        for place, name in enumerate(node.input):
            if name == old:
                node.input[place] = new
