"""Whose time it is: what a runtime executed, by the layers of the network that it was made of."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ...targets.graphs.onnx_graph import OnnxGraph
from ...targets.layer import Layer


def times_by_layer(executed: Sequence[Layer], graph: OnnxGraph, layers: Collection[str]) -> dict[str, float]:
    """Milliseconds of each of `layers`, the names of modules that multiply; none where the runtime tells no times.

    graph: the ONNX file that the engine was built from. What does not multiply counts for what was executed before it,
    what comes before all that does for none, and what several layers were fused into for all of them alike.
    """
    if all(layer.ms is None for layer in executed):
        return {}
    owners = {name: _owner(graph, name, layers) for name, _ in graph.computed_macs()}
    times: dict[str, float] = {}
    current: list[str] = []
    for layer in executed:
        found = dict.fromkeys(owner for node in layer.onnx_nodes if (owner := owners.get(node)))
        current = list(found) or current
        for name in current:
            times[name] = times.get(name, 0.0) + (layer.ms or 0.0) / len(current)
    return times


def _owner(graph: OnnxGraph, node: str, layers: Collection[str]) -> str | None:
    """The layer that a multiplying node belongs to: by its name, which export made that of its module, or its weight's.

    A product of an attention is called after it (`blocks.0.attention.scores`), a module's second call `NAME#2`.
    """
    constants = [tensor for tensor in graph.by_name[node].input if tensor in graph.constants]
    for name in (node.partition("#")[0], *(_stored(graph, tensor) for tensor in constants)):
        while name:
            if name in layers:
                return name
            name = name.rpartition(".")[0]
    return None


def _stored(graph: OnnxGraph, tensor: str) -> str:
    """The name of the stored tensor that a constant is made of, through dequantizing and transposing."""
    while tensor in graph.producer and (read := graph.by_name[graph.producer[tensor]].input):
        tensor = read[0]
    return tensor
