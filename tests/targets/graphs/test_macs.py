"""Multiply-accumulates against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from edgepress.targets.graphs.macs import node_macs, operator_macs
from onnx import helper
from tiny_onnx import model_of


def one(op, weight, shape, **attributes):
    node = helper.make_node(op, ["x", "w"], ["y"], "n", **attributes)
    return node_macs(model_of([node], {"w": np.zeros(weight, np.float32)}, shape=shape))["n"]


@pytest.mark.parametrize(
    ("op", "weight", "shape", "attributes", "macs"),
    [
        pytest.param(
            "Conv", (4, 3, 3, 3), ("N", 3, 8, 8), {"pads": [1] * 4}, 8 * 8 * 4 * 27, id="padded conv"
        ),
        pytest.param(
            "Conv", (4, 3, 3, 3), ("N", 3, 8, 8), {"strides": [2, 2]}, 3 * 3 * 4 * 27, id="strided conv"
        ),
        pytest.param("Conv", (6, 1, 3, 3), ("N", 6, 8, 8), {"group": 6}, 6 * 6 * 6 * 9, id="depthwise conv"),
        pytest.param("Conv", (8, 3, 1, 1), ("N", 6, 4, 4), {"group": 2}, 16 * 8 * 3, id="grouped conv"),
        pytest.param("Conv", (4, 2, 5), ("N", 2, 9), {}, 5 * 4 * 10, id="1-D conv"),
        pytest.param(
            "ConvTranspose", (3, 2, 2, 2), ("N", 3, 4, 4), {"strides": [2, 2]}, 48 * 8, id="transposed"
        ),
        pytest.param("Gemm", (5, 7), ("N", 5), {}, 35, id="gemm"),
        pytest.param("Gemm", (7, 5), ("N", 5), {"transB": 1}, 35, id="gemm with transposed weight"),
        pytest.param("MatMul", (5, 7), ("N", 3, 5), {}, 3 * 35, id="a linear layer on 3 tokens"),
        pytest.param("MatMul", (5, 7), (4, 3, 5), {}, 3 * 35, id="a fixed batch of 4 is divided out"),
    ],
)
def test_one_node(op, weight, shape, attributes, macs):
    assert one(op, weight, shape, **attributes) == macs


def test_attention_products_count_heads_and_tokens():
    """2 heads, 3 tokens, 4 features a head: q k' is 2x3x3x4, its product with v the same."""
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], "t", perm=[0, 1, 3, 2]),
        helper.make_node("MatMul", ["x", "t"], ["a"], "scores"),
        helper.make_node("Softmax", ["a"], ["p"], "softmax"),
        helper.make_node("MatMul", ["p", "x"], ["y"], "mix"),
    ]
    assert node_macs(model_of(nodes, {}, shape=("N", 2, 3, 4))) == {"scores": 72, "mix": 72}


def test_shape_computed_in_the_graph_is_found():
    nodes = [
        helper.make_node("Shape", ["x"], ["s"], "shape"),
        helper.make_node("Gather", ["s", "zero"], ["b"], "gather"),
        helper.make_node("Concat", ["b", "rest"], ["to"], "concat", axis=0),
        helper.make_node("Reshape", ["x", "to"], ["f"], "flat"),
        helper.make_node("MatMul", ["f", "w"], ["y"], "n"),
    ]
    arrays = {"zero": np.array([0]), "rest": np.array([12]), "w": np.zeros((12, 5), np.float32)}
    assert node_macs(model_of(nodes, arrays, shape=("N", 3, 4))) == {"n": 60}


def test_a_product_of_constants_is_folded_and_not_counted():
    nodes = [
        helper.make_node("MatMul", ["a", "b"], ["w"], "folded"),
        helper.make_node("MatMul", ["x", "w"], ["y"], "n"),
    ]
    arrays = {"a": np.zeros((4, 9), np.float32), "b": np.zeros((9, 2), np.float32)}
    assert node_macs(model_of(nodes, arrays, shape=("N", 4))) == {"n": 8}


def test_nodes_without_a_name_or_with_the_same_one_are_told_apart_by_their_output():
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["first"], ""),
        helper.make_node("MatMul", ["first", "w"], ["second"], "same"),
        helper.make_node("MatMul", ["second", "w"], ["y"], "same"),
    ]
    found = node_macs(model_of(nodes, {"w": np.zeros((2, 2), np.float32)}, shape=("N", 2)))
    assert found == {"first": 4, "same": 4, "y": 4}


def test_a_varying_axis_other_than_the_batch_leaves_the_count_unknown_and_is_named():
    node = helper.make_node("Conv", ["x", "w"], ["y"], "n")
    shape = ("N", 3, "height", 8)
    [found] = operator_macs(model_of([node], {"w": np.zeros((4, 3, 3, 3), np.float32)}, shape=shape))
    assert found.macs is None
    assert found.why.startswith("input 'x': axis 2 (height) has no fixed size")
