"""Multiply-accumulates of ONNX operators beyond convolutions and matmuls, by hand, and what is unknown."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from edgepress.targets.graphs.macs import node_macs, operator_macs
from edgepress.targets.graphs.onnx_formulas import einsum_macs
from onnx import TensorProto, helper
from tiny_onnx import model_of

MS = "com.microsoft"


def zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


def counted(op: str, inputs: list[str], arrays: dict, shape: tuple, **attributes) -> int | None:
    node = helper.make_node(op, inputs, ["y"], "n", **attributes)
    model = model_of([node], arrays, shape=shape)
    model.opset_import.append(helper.make_opsetid(MS, 1))
    return node_macs(model).get("n", 0)


@pytest.mark.parametrize(
    ("op", "inputs", "arrays", "shape", "attributes", "macs"),
    [
        # 5 steps, batch 2, 4 features, 3 hidden
        pytest.param("LSTM", "x w r", {"w": zeros(1, 12, 4), "r": zeros(1, 12, 3)}, (5, 2, 4), {"hidden_size": 3},
                     5 * 2 * 12 * 7 // 5, id="LSTM: its first axis is the batch that is divided out"),
        pytest.param("GRU", "x w r", {"w": zeros(2, 9, 4), "r": zeros(2, 9, 3)}, (1, 5, 4),
                     {"hidden_size": 3, "direction": "bidirectional"}, 5 * 2 * 9 * 7, id="GRU: both ways"),
        pytest.param("Einsum", "x w", {"w": zeros(6, 7)}, ("N", 5, 6), {"equation": "bij,jk->bik"}, 210, id="einsum"),
        pytest.param("DeformConv", "x w o", {"w": zeros(4, 3, 3, 3), "o": zeros(1, 18, 4, 4)}, (1, 3, 6, 6), {},
                     4 * 4 * 4 * 27, id="deformable convolution"),
        pytest.param("FusedMatMul", "x w", {"w": zeros(5, 7)}, ("N", 3, 5), {"domain": MS}, 105, id="fused product"),
        pytest.param("FusedConv", "x w", {"w": zeros(4, 3, 3, 3)}, ("N", 3, 8, 8), {"domain": MS, "activation": "Relu"},
                     6 * 6 * 4 * 27, id="fused convolution"),
        pytest.param("Attention", "x w b", {"w": zeros(8, 24), "b": zeros(24)}, ("N", 5, 8),
                     {"domain": MS, "num_heads": 2}, 5 * 8 * 24 + 2 * 5 * 5 * 8, id="attention with its projection"),
        pytest.param("MultiHeadAttention", "x k v", {"k": zeros(1, 7, 8), "v": zeros(1, 7, 8)}, ("N", 5, 8),
                     {"domain": MS, "num_heads": 2}, 2 * 5 * 7 * 8, id="attention alone"),
        pytest.param("Resize", "x  s", {"s": np.array([1, 1, 2, 2], np.float32)}, ("N", 3, 8, 8), {}, 0, id="free"),
        pytest.param("DFT", "x", {}, (1, 8, 8, 2), {}, None, id="a Fourier transform is unknown"),
        pytest.param("Det", "x", {}, (1, 8, 8), {}, None, id="a determinant is unknown"),
        pytest.param("Mystery", "x", {}, (1, 8), {"domain": "their.own"}, None, id="an operator of their own"),
        pytest.param("Mystery", "x", {}, (1, 8), {}, None, id="an operator of a later opset"),
    ],
)  # fmt: skip
def test_one_node(op, inputs, arrays, shape, attributes, macs) -> None:
    assert counted(op, inputs.split(" "), arrays, shape, **attributes) == macs


@pytest.mark.parametrize(
    ("equation", "shapes", "macs"),
    [
        ("bij,bjk->bik", [(2, 3, 4), (2, 4, 5)], 2 * 3 * 4 * 5),
        ("...i,io->...o", [(2, 7, 4), (4, 5)], 2 * 7 * 4 * 5),
        ("ij,jk", [(3, 4), (4, 5)], 60),
        ("i,i->", [(4,), (4,)], 4),
        ("bi,bj->bij", [(2, 3), (2, 4)], 0),  # an outer product
        ("bij->bji", [(2, 3, 4)], 0),
        ("bij,bkj,bkl->bil", [(1, 5, 8), (1, 5, 8), (1, 5, 8)], 200 + 200),  # pair by pair
        ("bij,bk->bik", [(2, 3, 4), (2, 5)], 0),  # j is summed before, and nothing is left to contract
    ],
)
def test_einsum(equation: str, shapes: list[tuple[int, ...]], macs: int) -> None:
    assert einsum_macs(equation, shapes) == macs


def product(name: str, source: str, result: str) -> onnx.NodeProto:
    return helper.make_node("MatMul", [source, "w"], [result], name)


def info(name: str, kind: int = TensorProto.FLOAT, shape: list[int] | None = None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, [1, 4] if shape is None else shape)


def looped(turns: str, onward: onnx.NodeProto | None = None, first: str = "yes") -> onnx.ModelProto:
    onward = onward or helper.make_node("Identity", ["go"], ["on"])
    body = helper.make_graph(
        [onward, product("inner", "s", "t")],
        "body",
        [info("i", TensorProto.INT64, []), info("go", TensorProto.BOOL, []), info("s")],
        [info("on", TensorProto.BOOL, []), info("t")],
    )
    count = helper.make_node("Size", ["x"], ["computed"], "size")
    loop = helper.make_node("Loop", [turns, first, "x"], ["y"], "loop", body=body)
    return model_of(
        [count, loop],
        {
            "w": zeros(4, 4),
            "five": np.array(5),
            "most": np.array(2**63 - 1),
            "yes": np.array(True),
            "no": np.array(False),
        },
        shape=(1, 4),
    )


def test_a_loop_that_its_condition_may_end_is_unknown() -> None:
    ends = helper.make_node("Less", ["i", "most"], ["on"])
    for turns in ("five", "most"):
        [found] = operator_macs(looped(turns, ends))
        assert (found.macs, found.why) == (None, "how often it runs is not known")
    assert node_macs(looped("five", first="")) == {"loop": 5 * 16}
    assert node_macs(looped("five", first="no")) == {}
    true = helper.make_tensor("value", TensorProto.BOOL, [], [True])
    assert node_macs(looped("five", helper.make_node("Constant", [], ["on"], value=true))) == {"loop": 5 * 16}


def test_a_loop_counts_as_often_as_it_runs() -> None:
    assert node_macs(looped("five")) == {"loop": 5 * 16}
    [found] = operator_macs(looped("computed"))
    assert (found.macs, str(found), found.why) == (None, "Loop in 'loop'", "how often it runs is not known")


@pytest.mark.parametrize("alike", [True, False])
def test_an_if_is_counted_where_its_branches_cost_the_same(alike: bool) -> None:
    then = helper.make_graph([product("a", "x", "t"), product("b", "t", "u")], "then", [], [info("u")])
    more = [product("d", "e", "f")] if alike else [helper.make_node("Relu", ["e"], ["f"])]
    other = helper.make_graph([product("c", "x", "e"), *more], "else", [], [info("f")])
    choice = helper.make_node("If", ["yes"], ["y"], "choice", then_branch=then, else_branch=other)
    chosen = helper.make_node("Cast", ["x0"], ["yes"], "cast", to=TensorProto.BOOL)
    first = helper.make_node("ReduceMax", ["x"], ["x0"], "first", keepdims=0)
    [found] = operator_macs(model_of([first, chosen, choice], {"w": zeros(4, 4)}, shape=(1, 4)))
    differ = None, "its branches cost differently, and which one runs is not known"
    assert (found.macs, found.why) == ((32, "") if alike else differ)


def test_functions_of_the_file_count_what_their_bodies_do() -> None:
    imports = [helper.make_opsetid("", 19), helper.make_opsetid("mine", 1)]
    once = helper.make_function("mine", "Once", ["a", "w"], ["r"], [product("n", "a", "r")], imports)
    calls = [helper.make_node("Once", ["a", "w"], ["m"], domain="mine")]
    calls.append(helper.make_node("Once", ["m", "w"], ["r"], domain="mine"))
    twice = helper.make_function("mine", "Twice", ["a", "w"], ["r"], calls, imports)
    model = model_of(
        [helper.make_node("Twice", ["x", "w"], ["y"], "call", domain="mine")],
        {"w": zeros(4, 4)},
        shape=(1, 4),
    )
    model.opset_import.append(helper.make_opsetid("mine", 1))
    model.functions.extend([once, twice])
    assert node_macs(model) == {"call": 2 * 16}
