"""ONNX files that are quantized already: how that is seen, and what it means for passes and proofs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ...passes.order import NEEDS_FLOAT

if TYPE_CHECKING:
    import onnx

_STATIC = frozenset({"QuantizeLinear", "DequantizeLinear"})
_DYNAMIC = frozenset(
    {"DynamicQuantizeLinear", "MatMulInteger", "ConvInteger", "DynamicQuantizeMatMul", "MatMulIntegerToFloat"}
)
INTEGER_OPERATORS = ("QLinear", "QGemm", "QAttention", "QEmbed")


def how_quantized(model: onnx.ModelProto) -> str:
    """Say in words, by its operators, how a file is quantized; "" for a float one."""
    kinds = Counter(node.op_type for node in _nodes(model.graph))
    for function in model.functions:
        kinds.update(node.op_type for node in function.node)
    static = [k for k in kinds if k in _STATIC]
    dynamic = [k for k in kinds if k in _DYNAMIC]
    whole = [k for k in kinds if k.startswith(INTEGER_OPERATORS)]
    told = []
    if dynamic:
        told.append(f"dynamically ({_counted(kinds, dynamic)})")
    if whole:
        told.append(f"with integer operators ({_counted(kinds, whole)})")
    if static and not dynamic:
        told.append(f"with Q/DQ ({_counted(kinds, static)})")
    return " and ".join(told)


def why_no_pass_on_quantized(model: onnx.ModelProto, name: str) -> str:
    """Why no pass can change the file `name`, when it is quantized already; "" for a float one."""
    how = how_quantized(model)
    if not how:
        return ""
    return f"{name} is quantized already, {how}, and {NEEDS_FLOAT}"


def _counted(kinds: Counter[str], names: list[str]) -> str:
    return ", ".join(f"{kinds[name]} {name}" for name in sorted(names))


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    graphs = [graph]
    while graphs:
        for node in graphs.pop().node:
            yield node
            for attribute in node.attribute:
                graphs.extend([*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs])
