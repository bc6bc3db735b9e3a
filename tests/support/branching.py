"""A network that leaves early: `If` on the sum of its input, one branch many times as much work as the other."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

WIDTH, LAYERS, CLASSES = 256, 400, 4


def branching() -> onnx.ModelProto:
    """x (1, 256) through 400 layers where its sum is above nought, else straight to the 4 outputs."""
    make = helper.make_node
    draw = np.random.default_rng(0)
    wide = (draw.standard_normal((WIDTH, WIDTH)) / WIDTH**0.5).astype(np.float32)
    head = draw.standard_normal((WIDTH, CLASSES)).astype(np.float32)
    tensors = ["x", *(f"h{i}" for i in range(LAYERS))]
    nodes = [
        make("MatMul", [before, "wide"], [after], f"layer_{after}") for before, after in pairwise(tensors)
    ]
    far = helper.make_graph(nodes, "far", [], [value(tensors[-1], [1, WIDTH])])
    near = helper.make_graph([make("Identity", ["x"], ["out"])], "near", [], [value("out", [1, WIDTH])])
    graph = helper.make_graph(
        [
            make("ReduceSum", ["x"], ["sum"], "sum", keepdims=0),
            make("Greater", ["sum", "zero"], ["hard"], "hard"),
            make("If", ["hard"], ["features"], "exit", then_branch=far, else_branch=near),
            make("MatMul", ["features", "head"], ["logits"], "head"),
        ],
        "branching",
        [value("x", [1, WIDTH])],
        [value("logits", [1, CLASSES])],
        [
            numpy_helper.from_array(wide, "wide"),
            numpy_helper.from_array(head, "head"),
            numpy_helper.from_array(np.float32(0), "zero"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


def value(name: str, shape: list[int]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def sample(hard: bool, seed: int = 0) -> np.ndarray:
    """One input of the network, (1, 256), for the long way or the short one."""
    drawn = np.abs(np.random.default_rng(seed).standard_normal((1, WIDTH))).astype(np.float32)
    return drawn if hard else -drawn
