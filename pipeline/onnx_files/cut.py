"""Cuts: a stretch of an ONNX graph as a model of its own, fed with values that are known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ...targets.graphs.onnx_graph import OnnxGraph

if TYPE_CHECKING:
    import onnx

Values = Mapping[str, "np.ndarray[Any, Any]"]


class Cuts:
    """The places where a graph can be cut in two, so that all that crosses is known.

    values: tensors by name, as they should be. nodes: those computed at inference, in order; names: theirs.
    places: how many of `nodes` lie before each cut; the first is 0, the last all of them. No cut parts a quantizer
    from what reads its integers: rounding one of them differently is no fault.
    """

    def __init__(self, model: onnx.ModelProto, values: Values) -> None:
        self._model, self._values = model, values
        self._graph = OnnxGraph(model)
        named = [(name, node) for name, node in self._graph.by_name.items() if not self._constant(node)]
        self.names, self.nodes = [n for n, _ in named], [node for _, node in named]
        self._outputs = {value.name for value in model.graph.output}
        self._made = {t: i for i, node in enumerate(self.nodes) for t in node.output if t}
        self._last = {t: len(self.nodes) if t in self._outputs else self._made[t] for t in self._made}
        for index, node in enumerate(self.nodes):
            for tensor in reads(node):
                if tensor in self._last:
                    self._last[tensor] = max(self._last[tensor], index)
        self.places = self._allowed()

    def _constant(self, node: onnx.NodeProto) -> bool:
        return all(tensor in self._graph.constants for tensor in node.output)

    def _allowed(self) -> list[int]:
        blocked = np.zeros(len(self.nodes) + 2, np.int64)
        for tensor, made in self._made.items():
            value = self._values.get(tensor)
            if value is None or value.dtype in (np.int8, np.uint8):
                blocked[made + 1] += 1
                blocked[self._last[tensor] + 1] -= 1
        free = np.cumsum(blocked)[: len(self.nodes) + 1] == 0
        return sorted({0, len(self.nodes), *(int(i) for i in np.flatnonzero(free))})

    def part(self, start: int, stop: int) -> tuple[onnx.ModelProto, dict[str, Any], list[str]]:
        """Nodes `start` to `stop` (without it) as a model, its feeds, and the outputs that are known."""
        import onnx
        from onnx import helper

        inside = self.nodes[start:stop]
        made = {t for node in inside for t in node.output if t}
        needed = dict.fromkeys(t for node in inside for t in reads(node) if t and t not in made)
        fed = [t for t in needed if t in self._values and t not in self._graph.constants]
        outputs = [t for t in self._made if t in made and self._last[t] >= stop and t in self._values]
        constants = self._constants_for([t for t in needed if t not in fed])
        used = {t for node in (*constants, *inside) for t in reads(node)}
        graph = helper.make_graph(
            [*constants, *inside],
            "part",
            [self._value_info(t) for t in fed],
            [self._value_info(t) for t in outputs],
            [i for i in self._model.graph.initializer if i.name in used],
        )
        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        model.graph.CopyFrom(graph)
        return model, {t: self._values[t] for t in fed}, outputs

    def _constants_for(self, tensors: list[str]) -> list[onnx.NodeProto]:
        wanted = set(tensors)
        found = []
        for node in reversed(self._graph.nodes):
            if self._constant(node) and wanted & set(node.output):
                wanted.update(reads(node))
                found.append(node)
        return found[::-1]

    def _value_info(self, tensor: str) -> onnx.ValueInfoProto:
        from onnx import helper

        value = self._values[tensor]
        return helper.make_tensor_value_info(
            tensor, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape
        )

    def expected(self, tensor: str) -> np.ndarray[Any, Any]:
        """The known value of a tensor."""
        return self._values[tensor]


def reads(node: onnx.NodeProto) -> Iterator[str]:
    """Every tensor that a node reads, those that the graphs inside it read from outside included."""
    yield from node.input
    for attribute in node.attribute:
        for graph in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
            own = {i.name for i in (*graph.input, *graph.initializer)}
            own |= {t for inner in graph.node for t in inner.output}
            yield from (t for inner in graph.node for t in reads(inner) if t not in own)
            yield from (o.name for o in graph.output if o.name not in own)


def values_of(model: onnx.ModelProto, feeds: Values) -> dict[str, np.ndarray[Any, Any]]:
    """Every tensor of the top graph by name, as onnxruntime computes it node by node without optimizations."""
    import onnx
    import onnxruntime

    graph = OnnxGraph(model)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    names = [t for t in graph.producer if t not in graph.constants]
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        copy.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    found = zip(names, session.run(names, dict(feeds)), strict=True)
    return {**feeds, **{name: value for name, value in found if isinstance(value, np.ndarray)}}
