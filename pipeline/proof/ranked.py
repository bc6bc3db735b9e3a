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


Rankings = dict[str, frozenset[str]]
"""The rankings, by a tensor's name, whose order its rows stand in, each by its first output."""


def ranked_outputs(onnx_path: Path) -> list[list[int]]:
    """Indices of the outputs whose rows stand in the order of a ranking; those of one ranking together.

    A ranking is followed through what keeps its rows apart. Where values are added, multiplied or joined, all of them
    must be of a ranking or constant: logits that a top-k gate weighs are none. Floats of two axes are ranked only as
    the values of a ranking themselves; others, gathered by its indices, may be the scores of classes.
    """
    model = load_onnx(onnx_path)
    graph = OnnxGraph(model)
    ranked: Rankings = {}
    values: Rankings = {}
    constants = set(graph.constants)
    for node in graph.nodes:  # in topological order
        if node.op_type in {"Shape", "Size"} or (
            node.input and all(t in constants for t in reads(node) if t)
        ):
            constants.update(node.output)  # sizes are the same for all samples
        if node.op_type in _RANKING:
            own = frozenset({node.output[0]})
            ranked.update(dict.fromkeys(node.output, own))
            values.update(dict.fromkeys(node.output, own))
        if found := _followed(node, ranked, constants):
            ranked.update(dict.fromkeys(node.output, found))
        if node.op_type in _ONE_INPUT | _ARITHMETIC and (found := _followed(node, values, constants)):
            values.update(dict.fromkeys(node.output, found))
    kinds = _kinds(model)
    groups: dict[frozenset[str], list[int]] = {}
    for index, output in enumerate(model.graph.output):
        if output.name in values or (output.name in ranked and not _may_be_scores(kinds.get(output.name))):
            groups.setdefault(ranked[output.name], []).append(index)
    return list(groups.values())


def _followed(node: onnx.NodeProto, rankings: Rankings, constants: set[str]) -> frozenset[str]:
    """The rankings in whose order the rows stand that a node gives, of those that it reads; none where they do not."""
    if node.op_type in _GATHERING:  # rows come in the order of the indices
        read = node.input[1:2] if node.input[1] in rankings else node.input[:1]
    elif node.op_type in _ONE_INPUT:
        read = node.input[:1]
    elif node.op_type in _ALL_INPUTS and all(t in rankings or t in constants for t in node.input):
        read = node.input
    else:
        return frozenset()
    return frozenset().union(*(rankings[t] for t in read if t in rankings))


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
