"""Ranked outputs: those whose order is a ranking (top-k, non-maximum suppression), by the graph of an ONNX file."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ...targets.graphs.onnx_graph import OnnxGraph, load_onnx
from ..onnx_files.cut import reads

if TYPE_CHECKING:
    import onnx

_RANKING = frozenset({"TopK", "NonMaxSuppression"})
_GATHERING = frozenset({"Gather", "GatherElements", "GatherND"})
_ONE_INPUT = frozenset(
    {
        "Cast", "CastLike", "Squeeze", "Unsqueeze", "Identity", "Reshape", "Flatten", "Slice", "Split", "Expand",
        "Tile", "Sigmoid", "Clip", "Transpose", "Neg", "Not", "Floor", "Abs", "Sign",
    }
)  # fmt: skip
"""Operators that keep rows apart and take values from their first input; the others say how."""
_ARITHMETIC = frozenset({"Add", "Sub", "Mul", "Div", "Mod", "Concat"})
_ALL_INPUTS = _ARITHMETIC | {
    "Where", "Min", "Max", "And", "Or", "Xor", "Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual",
}  # fmt: skip


def ranked_outputs(onnx_path: Path) -> list[int]:
    """Indices of the outputs whose rows stand in the order of a ranking.

    A ranking is followed through what keeps its rows apart. Where values are added, multiplied or joined, all of them
    must be of a ranking or constant: logits that a top-k gate weighs are none. Floats of two axes are ranked only as
    the values of a ranking themselves; others, gathered by its indices, may be the scores of classes.
    """
    model = load_onnx(onnx_path)
    graph = OnnxGraph(model)
    ranked: set[str] = set()
    values: set[str] = set()
    constants = set(graph.constants)
    for node in graph.nodes:  # in topological order
        if node.op_type in {"Shape", "Size"} or (
            node.input and all(t in constants for t in reads(node) if t)
        ):
            constants.update(node.output)  # sizes are the same for all samples
        if node.op_type in _RANKING:
            ranked.update(node.output)
            values.update(node.output)
        if _follows(node, ranked, constants):
            ranked.update(node.output)
        if node.op_type in _ONE_INPUT | _ARITHMETIC and _follows(node, values, constants):
            values.update(node.output)
    kinds = _kinds(model)
    return [
        index
        for index, output in enumerate(model.graph.output)
        if output.name in values or (output.name in ranked and not _may_be_scores(kinds.get(output.name)))
    ]


def _follows(node: onnx.NodeProto, ranked: set[str], constants: set[str]) -> bool:
    """Whether rows that a node gives stand in the order of those in `ranked` that it reads."""
    if node.op_type in _GATHERING:
        return bool(ranked & set(node.input[:2]))
    if node.op_type in _ONE_INPUT:
        return node.input[0] in ranked
    if node.op_type in _ALL_INPUTS:
        return bool(ranked & set(node.input)) and all(t in ranked or t in constants for t in node.input)
    return False


def _may_be_scores(value: onnx.ValueInfoProto | None) -> bool:
    """Whether an output may be one float for each class: it has two axes, or nothing says how many."""
    import onnx

    kind = onnx.TypeProto.Tensor() if value is None else value.type.tensor_type
    if kind.elem_type in {onnx.TensorProto.INT32, onnx.TensorProto.INT64}:
        return False
    return not kind.HasField("shape") or len(kind.shape.dim) == 2


def _kinds(model: onnx.ModelProto) -> dict[str, onnx.ValueInfoProto]:
    """The outputs with their types and numbers of axes, as far as the file says or they can be inferred."""
    from onnx import shape_inference

    with suppress(Exception):  # onnx's, of a file that runtimes may still read: what it declares stands
        model = shape_inference.infer_shapes(model)
    return {value.name: value for value in model.graph.output}
