"""The functions of an ONNX file: how many operators a graph has once what it calls stands in its place."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

MAX_NODES, MAX_DEPTH = 200_000, 50


def expanded_size(model: onnx.ModelProto) -> int:
    """How many nodes the graph has once its functions are in place; a function that calls itself counts as many."""
    functions = {(f.domain, f.name): f for f in model.functions}
    sizes: dict[tuple[str, str], int] = {}

    def size_of(nodes: Iterable[onnx.NodeProto], depth: int) -> int:
        total = 0
        for node in nodes:
            key = (node.domain, node.op_type)
            if key not in functions:
                total += 1
                continue
            if depth > MAX_DEPTH:
                return MAX_NODES + 1
            if key not in sizes:
                sizes[key] = size_of(functions[key].node, depth + 1)
            total += sizes[key]
        return total

    return size_of(model.graph.node, 0)
