"""Which graphs take work that depends on the data; those that take the same for every input come first."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from edgepress.targets.graphs.data_dependent import data_dependent
from onnx import TensorProto, helper
from tiny_onnx import conv_float, conv_qdq, model_of

make = helper.make_node
TRUE, ZERO, ONE = np.bool_(True), np.int64(0), np.int64(1)


def value(name: str, kind: int = TensorProto.FLOAT, shape: list[int] | None = None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def branch(name: str, *nodes: onnx.NodeProto) -> onnx.GraphProto:
    return helper.make_graph(list(nodes), name, [], [value(f"{name}_y")])


def condition(cond: str) -> onnx.NodeProto:
    bodies = {f"{name}_branch": branch(name, make("Relu", ["x"], [f"{name}_y"])) for name in ("then", "else")}
    return make("If", [cond], ["y"], "exit", **bodies)


def decided(tensor: str) -> list[onnx.NodeProto]:
    """Whether the sum of a tensor is above nought."""
    return [make("ReduceSum", [tensor], ["sum"], keepdims=0), make("Greater", ["sum", "zero"], ["cond"])]


def loop(count: str, cond: str, body: list[onnx.NodeProto], goes_on: str = "goes_on") -> onnx.NodeProto:
    inputs = [value("round", TensorProto.INT64, []), value("cond_in", TensorProto.BOOL, []), value("state")]
    outputs = [value(goes_on, TensorProto.BOOL, []), value("next")]
    graph = helper.make_graph(body, "body", inputs, outputs)
    return make("Loop", [count, cond, "x"], ["y"], "loop", body=graph)


ON = make("Identity", ["cond_in"], ["goes_on"])
STEP = make("Relu", ["state"], ["next"])
SUM = [make("ReduceSum", ["state"], ["s"], keepdims=0), make("Greater", ["s", "zero"], ["enough"])]
COUNT = [make("ReduceMax", ["x"], ["m"], keepdims=0), make("Cast", ["m"], ["count"], to=TensorProto.INT64)]
SCAN = helper.make_graph(
    [make("Add", ["state", "item"], ["next"]), make("Identity", ["next"], ["out"])],
    "scan", [value("state"), value("item")], [value("next"), value("out")],
)  # fmt: skip

SAME_WORK = [
    pytest.param([make("Relu", ["x"], ["y"])], {}, id="nothing to decide"),
    pytest.param([condition("yes")], {"yes": TRUE}, id="a condition that is stored"),
    pytest.param(
        [make("Shape", ["x"], ["s"]), make("Gather", ["s", "zero"], ["n"]), make("Equal", ["n", "one"], ["c"]),
         condition("c")],
        {"zero": ZERO, "one": ONE}, id="a condition on the batch",
    ),
    pytest.param([loop("three", "", [ON, STEP])], {"three": np.int64(3)}, id="a stored number of rounds"),
    pytest.param(
        [make("Shape", ["x"], ["s"]), make("Reshape", ["x", "s"], ["y"])], {}, id="a shape that is read off",
    ),
    pytest.param([make("NonZero", ["w"], ["y"])], {"w": np.ones(3, np.float32)}, id="places of a weight"),
    pytest.param(
        [make("Scan", ["w", "x"], ["end", "y"], "scan", body=SCAN, num_scan_inputs=1)],
        {"w": np.zeros((8, 8, 8), np.float32)}, id="a scan over the input",
    ),
    pytest.param(
        [loop("three", "", [ON, make("Relu", ["w"], ["next"])]), make("NonZero", ["y"], ["z"], "after")],
        {"three": np.int64(3), "w": np.ones(3, np.float32)}, id="what a loop forgets",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("nodes", "arrays"), SAME_WORK)
def test_work_that_is_the_same_for_every_input(nodes, arrays):
    assert data_dependent(model_of(nodes, arrays)) is None


def test_networks_without_control_flow_are_the_same_for_every_input():
    assert data_dependent(conv_float()) is None and data_dependent(conv_qdq()) is None


def test_an_input_that_is_stored_is_no_input():
    model = model_of([condition("yes")], {"yes": TRUE})
    model.graph.input.append(value("yes", TensorProto.BOOL, []))
    assert data_dependent(model) is None


OTHER_WORK = [
    pytest.param([*decided("x"), condition("cond")], {"zero": np.float32(0)}, "If 'exit'", id="a branch"),
    pytest.param(
        [make("Relu", ["x"], ["r"]), *decided("r"), make("Not", ["cond"], ["c"]), condition("c")],
        {"zero": np.float32(0)}, "If 'exit'", id="a branch behind other operators",
    ),
    pytest.param([*COUNT, loop("count", "", [ON, STEP])], {}, "Loop 'loop'", id="a number of rounds"),
    pytest.param(
        [loop("many", "yes", [STEP, *SUM, make("Identity", ["enough"], ["goes_on"])])],
        {"many": np.int64(9), "yes": TRUE, "zero": np.float32(0)}, "Loop 'loop'", id="rounds until it is enough",
    ),
    pytest.param([make("NonZero", ["x"], ["y"], "find")], {}, "NonZero 'find'", id="places of what is not nought"),
    pytest.param([*COUNT, make("Expand", ["w", "count"], ["y"])], {"w": np.float32(1)}, "Expand 'y'", id="a size"),
    pytest.param(
        [make("If", ["yes"], ["y"], "outer",
              then_branch=branch("then", *decided("x"), make("NonZero", ["x"], ["then_y"], "inner")),
              else_branch=branch("else", make("Relu", ["x"], ["else_y"])))],
        {"yes": TRUE, "zero": np.float32(0)}, "NonZero 'inner'", id="inside of a branch",
    ),
    pytest.param(
        [loop("three", "", [ON, STEP]), make("NonZero", ["y"], ["z"], "after")],
        {"three": np.int64(3)}, "NonZero 'after'", id="what a loop hands on",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("nodes", "arrays", "told"), OTHER_WORK)
def test_work_that_depends_on_what_the_input_holds(nodes, arrays, told):
    assert data_dependent(model_of(nodes, arrays)) == told


def test_functions_of_the_file_are_looked_into():
    model = model_of([make("Find", ["x"], ["y"], "call", domain="own")], {})
    body = [make("NonZero", ["a"], ["b"], "find")]
    own = helper.make_function("own", "Find", ["a"], ["b"], body, [helper.make_opsetid("", 19)])
    model.functions.append(own)
    model.opset_import.append(helper.make_opsetid("own", 1))
    assert (data_dependent(model) or "").startswith("NonZero")
