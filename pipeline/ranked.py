"""Ranked outputs: those whose order is a ranking (top-k, non-maximum suppression), by the graph of an ONNX file."""

from __future__ import annotations

from pathlib import Path

from ..targets.onnx_graph import OnnxGraph, load_onnx
from .onnx_cut import reads

_RANKING = frozenset({"TopK", "NonMaxSuppression"})
_ROW_BY_ROW = frozenset(
    {
        "Gather", "GatherElements", "GatherND", "Cast", "Squeeze", "Unsqueeze", "Identity", "Reshape", "Flatten",
        "Slice", "Split", "Concat", "Expand", "Tile", "Sigmoid", "Add", "Sub", "Mul", "Div", "Mod", "Clip", "Transpose",
    }
)  # fmt: skip
"""Operators that keep rows apart; after others, as a matrix product, an output is no ranking any more."""


def ranked_outputs(onnx_path: Path) -> list[int]:
    """Indices of the outputs whose rows stand in the order of a ranking."""
    model = load_onnx(onnx_path)
    ranked: set[str] = set()
    for node in OnnxGraph(model).nodes:  # in topological order
        if node.op_type in _RANKING or (node.op_type in _ROW_BY_ROW and ranked & set(reads(node))):
            ranked.update(node.output)
    return [index for index, output in enumerate(model.graph.output) if output.name in ranked]
