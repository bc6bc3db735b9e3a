"""Multiply-accumulates of each ONNX node, from its shapes."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from ..errors import CompressError
from .onnx_graph import OnnxGraph

if TYPE_CHECKING:
    import onnx

Shapes = dict[str, tuple[int, ...]]


def node_macs(model: onnx.ModelProto) -> dict[str, int]:
    """Multiply-accumulates of ONE sample for every Conv, ConvTranspose, Gemm and MatMul run at inference.

    A symbolic batch counts as 1; a fixed batch of B is divided out. Keys are the nodes' names (their first
    output's where they have none). Bias additions are not counted; what folds into constants has no entry.
    CompressError names the input or the node whose size cannot be known.
    """
    graph = OnnxGraph(model)
    nodes = dict(graph.computed_macs())
    if not nodes:
        return {}
    single, batch = _one_sample(model)
    shapes = _shapes(single)
    missing = [n for n, node in nodes.items() if not _known(shapes, (*node.input[:2], node.output[0]))]
    if missing:
        shapes.update(_measured_shapes(single, [nodes[name] for name in missing]))
    return {name: _macs(node, name, shapes) // batch for name, node in nodes.items()}


def _known(shapes: Shapes, tensors: tuple[str, ...]) -> bool:
    return all(tensor in shapes for tensor in tensors)


def _macs(node: onnx.NodeProto, name: str, shapes: Shapes) -> int:
    if not _known(shapes, (*node.input[:2], node.output[0])):
        raise CompressError(
            f"node {name} ({node.op_type}): its shapes cannot be inferred; export with fixed sizes"
        )
    first, second, out = (shapes[t] for t in (node.input[0], node.input[1], node.output[0]))
    if node.op_type == "Conv":  # weight (out, in/groups, kernel...): each output value sums over the rest
        return prod(out) * prod(second[1:])
    if (
        node.op_type == "ConvTranspose"
    ):  # weight (in, out/groups, kernel...): each input value is spread over it
        return prod(first) * prod(second[1:])
    if node.op_type == "Gemm":
        transposed = any(a.name == "transA" and a.i for a in node.attribute)
        return prod(out) * first[0 if transposed else 1]
    return prod(out) * first[-1]


def _one_sample(model: onnx.ModelProto) -> tuple[onnx.ModelProto, int]:
    """A copy whose symbolic batch is 1 and whose other value shapes are forgotten, and its batch size."""
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.value_info[:]
    constants = {i.name for i in copy.graph.initializer}
    inputs = [i for i in copy.graph.input if i.name not in constants]
    for value in inputs:
        for axis, size in enumerate(value.type.tensor_type.shape.dim):
            if size.dim_value <= 0:
                if axis:
                    raise CompressError(
                        f"input {value.name!r}: axis {axis} ({size.dim_param or 'unknown'}) has no fixed "
                        "size; only the batch (axis 0) may vary, export the other axes with fixed sizes"
                    )
                size.dim_value = 1
    for value in copy.graph.output:
        value.type.tensor_type.ClearField("shape")
    dims = inputs[0].type.tensor_type.shape.dim if inputs else []
    return copy, (dims[0].dim_value if len(dims) > 1 else 1)


def _shapes(model: onnx.ModelProto) -> Shapes:
    """Shapes of the tensors that onnx can infer fully."""
    import onnx

    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    shapes = {i.name: tuple(i.dims) for i in inferred.graph.initializer}
    for value in (*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output):
        kind = value.type.tensor_type
        if kind.HasField("shape") and all(d.HasField("dim_value") for d in kind.shape.dim):
            shapes[value.name] = tuple(d.dim_value for d in kind.shape.dim)
    return shapes


def _measured_shapes(model: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> Shapes:
    """Shapes seen in one onnxruntime run on zeros, where shape inference gave up."""
    import numpy as np
    import onnx
    import onnxruntime

    held = {i.name for i in model.graph.initializer}
    wanted = {t for node in nodes for t in (*node.input[:2], node.output[0]) if t not in held}
    present = {o.name for o in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in sorted(wanted - present))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    feeds = {}
    for value in model.graph.input:
        if value.name not in held:
            kind = value.type.tensor_type
            dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
            feeds[value.name] = np.zeros([d.dim_value for d in kind.shape.dim], dtype)
    try:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        names = [o.name for o in session.get_outputs() if o.name in wanted]
        arrays = session.run(names, feeds)
    except Exception:  # the caller names the node whose shape stays unknown
        return {}
    return {name: tuple(np.shape(array)) for name, array in zip(names, arrays, strict=True)}
