"""Tiny hand-made ONNX graphs."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from edgepress.targets.graphs.vnni import weight_limit
from onnx import TensorProto, helper, numpy_helper

LIMIT = weight_limit()  # what this CPU adds without saturating


def model_of(nodes, arrays, outputs=("y",), opset=19, ir=9, shape=("N", 8, 8, 8), dtype=TensorProto.FLOAT):
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", dtype, list(shape))],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)


def conv_qdq(
    zero: Any = np.int8(0), weight: str = "int8", bias: str = "", quantize_input: bool = True, **model: Any
) -> onnx.ModelProto:
    """x (N, 8, 8, 8) -> Q/DQ -> 3x3 Conv, 8 of them -> Relu -> Q/DQ; `weight`, `bias`: how they are kept."""
    rng = np.random.default_rng(0)
    arrays = {
        "s": np.float32(0.03),
        "z": zero,
        "ws": np.full(8, 0.01, np.float32),
        "wz": np.zeros(8, np.int8),
    }
    nodes = [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"], "q_in")]
    nodes.append(helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"], "dq_in"))
    integers = rng.integers(-LIMIT, LIMIT + 1, (8, 8, 3, 3)).astype(np.int8)
    if weight == "float":
        arrays["wd"] = integers.astype(np.float32) * np.float32(0.01)
    else:
        arrays["lo"], arrays["hi"] = np.int8(-127), np.int8(127)
        source = "w"
        arrays["w"] = integers
        if weight == "float-q-clip":
            arrays["w"] = integers.astype(np.float32) * np.float32(0.01)
            nodes.append(helper.make_node("QuantizeLinear", ["w", "ws", "wz"], ["wq"], "q_weight", axis=0))
            source = "wq"
        if weight != "int8":
            nodes.append(helper.make_node("Clip", [source, "lo", "hi"], ["wc"], "clip"))
            source = "wc"
        nodes.append(helper.make_node("DequantizeLinear", [source, "ws", "wz"], ["wd"], "dq_weight", axis=0))
    inputs = ["xd" if quantize_input else "x", "wd"]
    if bias == "int32":
        arrays["b"], arrays["bs"] = np.arange(8).astype(np.int32), np.full(8, 3e-4, np.float32)
        nodes.append(helper.make_node("DequantizeLinear", ["b", "bs"], ["bd"], "dq_bias", axis=0))
        inputs.append("bd")
    nodes.append(helper.make_node("Conv", inputs, ["c"], "conv", pads=[1, 1, 1, 1]))
    nodes.append(helper.make_node("Relu", ["c"], ["r"], "relu"))
    nodes.append(helper.make_node("QuantizeLinear", ["r", "s", "z"], ["rq"], "q_out"))
    nodes.append(helper.make_node("DequantizeLinear", ["rq", "s", "z"], ["y"], "dq_out"))
    return model_of(nodes, arrays, **model)


def conv_float() -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"], "conv", pads=[1, 1, 1, 1])]
    nodes.append(helper.make_node("Relu", ["c"], ["y"], "relu"))
    return model_of(nodes, {"w": rng.standard_normal((8, 8, 3, 3)).astype(np.float32)})


CONV_MACS = 8 * 8 * 8 * (8 * 3 * 3)
"""One sample of `conv_qdq` and `conv_float`: 8x8 positions, 8 filters, each over 8 channels of 3x3."""
