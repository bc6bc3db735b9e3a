"""Names of an ONNX file, made fit to become names of PyTorch modules.

onnx2torch makes a module of each node and calls it as the node is called; torch.fx then writes that name between
quotes into source, and executes the source. So in the copy that is converted every name is either a plain word of
the file's or one of ours.
"""

from __future__ import annotations

import copy
import keyword
import re
from collections import Counter
from typing import TYPE_CHECKING

from torch import fx, nn

if TYPE_CHECKING:
    import onnx

# No quote, backslash, bracket, blank or line end: between quotes such a text is nothing but itself.
_PLAIN = re.compile(r"[A-Za-z0-9_/:\-]{1,200}", re.ASCII)
_RESERVED = frozenset(
    {"initializers", *dir(fx.GraphModule(nn.Module(), fx.Graph())), *keyword.kwlist, *keyword.softkwlist}
)


def with_safe_names(model: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, str]]:
    """A copy in which no name of the file's can act as code, and {name of ours: the file's} of renamed nodes.

    A node keeps its name (dots as slashes, a number where it is not the first of that name) where that is plain and
    free; else it is `n` and its place. Values are t0, t1, …, dimensions d0, d1, … What a conversion does not read
    (functions, documentation, metadata) is left out. The graph must hold no nested graphs.
    """
    renamed = copy.deepcopy(model)
    graph = renamed.graph
    del renamed.functions[:]
    del renamed.metadata_props[:]
    renamed.doc_string = renamed.producer_name = renamed.domain = ""
    for opset in renamed.opset_import:
        opset.domain = "" if opset.domain == "ai.onnx" else opset.domain
    graph.name, graph.doc_string = "graph", ""
    del graph.metadata_props[:]
    del graph.quantization_annotation[:]
    _rename_values(graph)
    return renamed, _rename_nodes(graph)


def _rename_values(graph: onnx.GraphProto) -> None:
    names: dict[str, str] = {"": ""}  # an optional input that is left out
    dimensions: dict[str, str] = {}

    def safe(name: str) -> str:
        return names.setdefault(name, f"t{len(names) - 1}")

    for value in (*graph.input, *graph.output, *graph.value_info):
        value.name, value.doc_string = safe(value.name), ""
        for dim in value.type.tensor_type.shape.dim:
            dim.denotation = ""
            if dim.HasField("dim_param"):
                dim.dim_param = dimensions.setdefault(dim.dim_param, f"d{len(dimensions)}")
    for tensor in graph.initializer:
        tensor.name, tensor.doc_string = safe(tensor.name), ""
    for node in graph.node:
        for values in (node.input, node.output):
            for index, name in enumerate(values):
                values[index] = safe(name)


def _rename_nodes(graph: onnx.GraphProto) -> dict[str, str]:
    taken: set[str] = set()
    calls: Counter[str] = Counter()
    names: dict[str, str] = {}
    for index, node in enumerate(graph.node):
        wanted = node.name.replace(".", "/").lstrip("/") or node.op_type
        calls[wanted] += 1
        name = wanted if calls[wanted] == 1 else f"{wanted}_{calls[wanted] - 1}"
        if not _PLAIN.fullmatch(name) or name in _RESERVED or name in taken:
            name = f"n{index}"
            while name in taken:
                name += "_"
            names[name] = node.name
        taken.add(name)
        node.name, node.doc_string = name, ""
        del node.metadata_props[:]
        node.domain = "" if node.domain == "ai.onnx" else node.domain
    return names
