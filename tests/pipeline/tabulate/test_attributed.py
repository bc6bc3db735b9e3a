"""Whose time it is that a runtime tells of a layer."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from edgepress.calibration.scheme import QuantScheme
from edgepress.examples.digits.models import cnn, vit
from edgepress.model import Model
from edgepress.passes.channels.dissect import dissect
from edgepress.passes.quantization.quick import quickly_quantized
from edgepress.pipeline.export import export
from edgepress.pipeline.tabulate.attributed import times_by_layer
from edgepress.targets.graphs.onnx_graph import OnnxGraph, load_onnx
from edgepress.targets.layer import Layer
from onnx import TensorProto, helper
from torch import nn


def executed(name: str, ms: float | None, *nodes: str) -> Layer:
    return Layer(name=name, type="t", precision="int8", ms=ms, macs=0, onnx_nodes=nodes)


def exported(model: Model, folder: Path) -> OnnxGraph:
    return OnnxGraph(load_onnx(export(model, folder / "model.onnx")))


@pytest.mark.parametrize("network", [cnn, vit])
@pytest.mark.parametrize("int8", [False, True])
def test_every_node_that_multiplies_leads_to_its_module(
    network: type[nn.Module], int8: bool, tmp_path: Path
) -> None:
    model = Model(network(), (torch.randn(1, 1, 32, 32),))
    layers = [layer.name for layer in dissect(model, "test").anatomy.layers]
    graph = exported(quickly_quantized(model, QuantScheme()) if int8 else model, tmp_path)
    nodes = [name for name, _ in graph.computed_macs()]
    found = times_by_layer([executed(node, 1.0, node) for node in nodes], graph, layers)
    assert list(found) == layers
    products = {
        name for name in layers if name.endswith("attention")
    }  # queries by keys, and the sums of values
    assert found == {name: 2.0 if name in products else 1.0 for name in layers}


def test_what_follows_a_layer_counts_for_it_and_what_is_fused_for_all() -> None:
    graph = OnnxGraph(gemms("first", "second#2", "second"))
    told = [
        executed("reorder of the input", 5.0),
        executed("first and its norm", 1.0, "first", "norm"),
        executed("pool", 0.5, "pool"),
        executed("reorder", 0.25),
        executed("second, twice", 4.0, "second#2", "second"),
        executed("below the clock", None, "act"),
    ]
    assert times_by_layer(told, graph, {"first", "second"}) == {"first": 1.75, "second": 4.0}
    fused = [executed("both", 3.0, "first", "second")]
    assert times_by_layer(fused, graph, {"first", "second"}) == {"first": 1.5, "second": 1.5}


def test_a_node_without_the_name_of_its_module_is_known_by_its_weight() -> None:
    graph = OnnxGraph(
        gemms("node_linear_3", "node_linear_7", weights=("net.fc1.weight", "net.fc2.weight_int8"))
    )
    told = [executed("a", 1.0, "node_linear_3"), executed("b", 2.0, "node_linear_7")]
    assert times_by_layer(told, graph, {"net.fc1", "net.fc2", "net"}) == {"net.fc1": 1.0, "net.fc2": 2.0}


def test_a_runtime_that_times_no_layer_tells_of_none() -> None:
    assert times_by_layer([executed("a", None, "first")], OnnxGraph(gemms("first")), {"first"}) == {}
    assert times_by_layer([], OnnxGraph(gemms("first")), {"first"}) == {}


def gemms(*names: str, weights: tuple[str, ...] = ()) -> onnx.ModelProto:
    """Matrix products one after the other, of stored weights that are dequantized where they are called _int8."""
    nodes, stored, tensor = [], [], "x"
    for index, name in enumerate(names):
        weight = weights[index] if weights else f"w{index}"
        int8 = weight.endswith("_int8")
        kind, values = (TensorProto.INT8, [1] * 4) if int8 else (TensorProto.FLOAT, [1.0] * 4)
        stored.append(helper.make_tensor(weight, kind, [2, 2], values))
        if int8:
            stored.append(helper.make_tensor(f"{weight}_scale", TensorProto.FLOAT, [], [1.0]))
            nodes.append(
                helper.make_node("DequantizeLinear", [weight, f"{weight}_scale"], [f"d{index}"], f"d{index}")
            )
            weight = f"d{index}"
        nodes.append(helper.make_node("MatMul", [tensor, weight], [f"y{index}"], name))
        tensor = f"y{index}"
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2]) for name in ("x", tensor)]
    graph = helper.make_graph(nodes, "gemms", ends[:1], ends[1:], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
