"""Low precision of an ONNX file: by what its multiplying operators read, not by a cast or a number elsewhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from edgepress.pipeline.onnx_files.precision import limits_note, low_precision
from edgepress.pipeline.proof.edges import Limit, prove
from onnx import TensorProto, helper, numpy_helper

HALF = TensorProto.FLOAT16
SCALES = {
    "s": np.float32(0.1),
    "z": np.int8(0),
    "w8": np.ones((4, 4), np.int8),
    "w": np.ones((4, 4), np.float32),
    "w16": np.ones((4, 4), np.float16),
    "h": np.ones((1,), np.float16),
}


def node(kind: str, reads: str, makes: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, reads.split(), makes.split(), **attributes)


def file_of(*nodes: onnx.NodeProto) -> onnx.ModelProto:
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 4]) for n in ("x", "y")]
    used = {t for n in nodes for t in n.input}
    arrays = [numpy_helper.from_array(np.array(v), k) for k, v in SCALES.items() if k in used]
    graph = helper.make_graph(list(nodes), "g", ends[:1], ends[1:], arrays)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


FLOAT = {
    "a cast there and back": [
        node("MatMul", "x w", "a"), node("Cast", "a", "b", to=HALF), node("Cast", "b", "y", to=1),
    ],
    "one half number": [
        node("MatMul", "x w", "a"), node("Cast", "h", "b", to=1), node("Add", "a b", "y"),
    ],
    "half weights that are read as float32": [node("Cast", "w16", "b", to=1), node("MatMul", "x b", "y")],
    "a product of constants": [
        node("MatMul", "w16 w16", "a"), node("Cast", "a", "b", to=1), node("MatMul", "x b", "y"),
    ],
    "a quantizer behind the last product": [
        node("MatMul", "x w", "a"), node("QuantizeLinear", "a s z", "q"), node("DequantizeLinear", "q s z", "y"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("nodes", FLOAT.values(), ids=FLOAT)
def test_what_multiplies_in_float32_keeps_the_limits_of_float32(nodes: list[onnx.NodeProto]) -> None:
    assert low_precision(file_of(*nodes)) == ""


LOW = {
    "a half product": (
        [node("Cast", "x", "a", to=HALF), node("MatMul", "a w16", "b"), node("Cast", "b", "y", to=1)],
        "1 of 1 operators that multiply in the file read float16 values",
    ),
    "half by a Constant node": (
        [
            node("MatMul", "x w", "f"), node("Cast", "f", "a", to=HALF),
            node("Constant", "", "c", value=numpy_helper.from_array(np.ones((4, 4), np.float16))),
            node("MatMul", "a c", "b"), node("Cast", "b", "y", to=1),
        ],
        "1 of 2 operators that multiply in the file read float16 values",
    ),
    "dequantized weights": (
        [node("DequantizeLinear", "w8 s z", "b"), node("Transpose", "b", "t"), node("MatMul", "x t", "y")],
        "1 of 1 operators that multiply in the file read quantized values",
    ),
    "integers": (
        [
            node("DynamicQuantizeLinear", "x", "q qs qz"), node("MatMulInteger", "q w8 qz", "i"),
            node("Cast", "i", "y", to=1),
        ],
        "1 of 1 operators that multiply in the file read quantized values",
    ),
    "nothing that multiplies": (
        [node("QuantizeLinear", "x s z", "q"), node("DequantizeLinear", "q s z", "y")],
        "the file is quantized with Q/DQ (1 DequantizeLinear, 1 QuantizeLinear)",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("nodes", "reason"), LOW.values(), ids=LOW)
def test_what_multiplies_in_less_is_told(nodes: list[onnx.NodeProto], reason: str) -> None:
    model = file_of(*nodes)
    for output in model.graph.node:  # empty names of nodes without inputs
        if list(output.input) == [""]:
            del output.input[:]
    assert low_precision(model) == reason


def test_a_function_of_the_file_is_looked_into() -> None:
    body = [node("Cast", "x", "a", to=HALF), node("MatMul", "a a", "b"), node("Cast", "b", "y", to=1)]
    model = file_of(helper.make_node("Half", ["x"], ["y"], domain="own"))
    model.opset_import.append(helper.make_opsetid("own", 1))
    function = helper.make_function("own", "Half", ["x"], ["y"], body, [helper.make_opsetid("", 19)])
    model.functions.append(function)
    assert low_precision(model).endswith("read float16 values")


def test_the_note_tells_the_limits_that_the_proofs_have() -> None:
    assert limits_note(file_of(*LOW["integers"][0])) == "its proofs have the limits of low precision"
    found = limits_note(file_of(*FLOAT["a quantizer behind the last product"]))
    assert found.startswith("its proofs have the limits of float32")


def test_a_lowered_limit_is_told_with_its_reason() -> None:
    y = [(torch.ones(4, 2),)]
    record = prove("a → b", y, y, Limit(15.0, 0.95, "the file is half"), classes=False)
    assert record.limit == "SQNR ≥ 15 dB (not 60 dB, as the file is half)"
