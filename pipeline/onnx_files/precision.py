"""The precision in which an ONNX file multiplies: what lowers the limits of its proofs, and why."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ...targets.graphs.onnx_graph import MOVING_OPS
from .file import type_name
from .quantized import INTEGER_OPERATORS, how_quantized

if TYPE_CHECKING:
    import onnx

_MULTIPLYING = frozenset(
    {
        "Conv", "ConvTranspose", "DeformConv", "Gemm", "MatMul", "Einsum", "LSTM", "GRU", "RNN", "Attention",
        "FusedConv", "FusedGemm", "FusedMatMul", "MultiHeadAttention", "GroupQueryAttention", "MatMulInteger",
        "ConvInteger", "DynamicQuantizeMatMul", "MatMulIntegerToFloat", "DynamicQuantizeLSTM", "MatMulNBits",
    }
)  # fmt: skip
_HALF = "FLOAT16", "BFLOAT16"
_QUANTIZED = "INT8", "UINT8", "INT4", "UINT4", "INT2", "UINT2", "FLOAT4", "FLOAT8"


def low_precision(model: onnx.ModelProto) -> str:
    """Say in words why an ONNX file computes in less than float32, "" where it does not.

    What counts is what its multiplying operators (convolutions, matrix products, recurrent layers, attention) read:
    half precision or quantized values, as they are or dequantized. A cast elsewhere or a stored half number lowers
    nothing. A file without such operators is of low precision when it is quantized at all.
    """
    from onnx import inliner

    if model.functions:
        model = inliner.inline_local_functions(model)
    reader = _Reader()
    reader.read(_inferred(model).graph, {}, set())
    if not reader.multiplying:
        return f"the file is quantized {how}" if (how := how_quantized(model)) else ""
    if not reader.low:
        return ""
    kinds = " or ".join(sorted({kind for kinds in reader.low for kind in kinds}))
    return (
        f"{len(reader.low)} of {reader.multiplying} operators that multiply in the file read {kinds} values"
    )


def low_precision_of(path: Path) -> str:
    """`low_precision` of the file at `path`; weights beside it are not read."""
    import onnx

    return low_precision(onnx.load(str(path), load_external_data=False))


def quantized_note(model: onnx.ModelProto) -> str:
    """What a user must know of a file that is quantized already; "" for a float one."""
    how = how_quantized(model)
    if not how:
        return ""
    return (
        f"the file is quantized already, {how}: no pass can change it, `passes: []` measures it as it is, and "
        f"{limits_note(model)}"
    )


def limits_note(model: onnx.ModelProto) -> str:
    """Which limits the proofs of a quantized file have, in words."""
    if low_precision(model):
        return "its proofs have the limits of low precision"
    return "its proofs have the limits of float32, for nothing that multiplies reads quantized values"


def _inferred(model: onnx.ModelProto) -> onnx.ModelProto:
    from onnx import shape_inference

    try:
        return shape_inference.infer_shapes(model)
    except Exception:  # onnx's, of a file that runtimes may still read: types then follow each first input
        return model


class _Reader:
    """Goes through graphs in order; counts what multiplies, and keeps what of it reads less than float32."""

    def __init__(self) -> None:
        self.multiplying = 0
        self.low: list[set[str]] = []

    def read(self, graph: onnx.GraphProto, types: dict[str, str], constants: set[str]) -> None:
        """types and constants: of the tensors around the graph, by name."""
        types, constants = dict(types), set(constants)
        for value in (*graph.input, *graph.value_info, *graph.output):
            types[value.name] = _name_of(value.type.tensor_type.elem_type)
        types |= {tensor.name: _name_of(tensor.data_type) for tensor in graph.initializer}
        constants |= {tensor.name for tensor in graph.initializer}
        dequantized: set[str] = set()
        for node in graph.node:
            for attribute in node.attribute:
                for body in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
                    self.read(body, types, constants)
            made = _made_type(node, types)
            for output in node.output:
                types[output] = types.get(output) or made
            if _carries(node, dequantized, constants):
                dequantized.update(node.output)
            if all(t in constants for t in node.input if t) and not any(
                a.HasField("g") for a in node.attribute
            ):
                if node.input or node.op_type == "Constant":
                    constants.update(node.output)
            elif node.op_type in _MULTIPLYING or node.op_type.startswith(INTEGER_OPERATORS):
                self.multiplying += 1
                kinds = {_kind(types.get(t, ""), t in dequantized) for t in node.input if t} - {""}
                self.low += [kinds] if kinds else []


def _carries(node: onnx.NodeProto, dequantized: set[str], constants: set[str]) -> bool:
    """Whether a node dequantizes, or moves or scales what was dequantized."""
    if node.op_type == "DequantizeLinear":
        return True
    coded = [t in dequantized for t in node.input]
    if node.op_type in {"Mul", "Div"}:
        return any(coded) and all(c or t in constants for c, t in zip(coded, node.input, strict=True))
    if node.op_type == "Concat":
        return any(coded)
    return node.op_type in {*MOVING_OPS, "Cast"} and coded[:1] == [True]


def _made_type(node: onnx.NodeProto, types: dict[str, str]) -> str:
    """The element type of a node's outputs where inference knew none."""
    for attribute in node.attribute:
        if node.op_type == "Cast" and attribute.name == "to":
            return _name_of(attribute.i)
        if node.op_type in {"Constant", "ConstantOfShape"} and attribute.name in {"value", "sparse_value"}:
            return _name_of(attribute.t.data_type)
    read = node.input[1:2] if node.op_type in {"DequantizeLinear", "CastLike", "Where"} else node.input[:1]
    return types.get(read[0], "") if read else ""


def _kind(type_name: str, dequantized: bool) -> str:
    if dequantized or type_name.startswith(_QUANTIZED):
        return "quantized"
    return type_name.lower() if type_name in _HALF else ""


def _name_of(elem_type: int) -> str:
    return type_name(elem_type).upper() if elem_type else ""
