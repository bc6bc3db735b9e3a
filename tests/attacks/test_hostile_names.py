"""Names in files are data: none reaches the source that torch.fx and torch.export write and execute."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from edgepress.errors import CompressError
from edgepress.model import Model
from edgepress.passes.graph.capture import capture
from edgepress.passes.graph.layers import layer_name, layers_of
from edgepress.passes.quantization.placement import place
from edgepress.pipeline.export import export
from edgepress.pipeline.ingest.model import ingest
from edgepress.pipeline.onnx_files.names import with_safe_names
from edgepress.pipeline.onnx_files.network import why_no_pass
from edgepress.pipeline.recipe.sections import ModelSection
from onnx import TensorProto, helper, numpy_helper

MARK = "attack_ran"  # every payload would leave it behind in the working folder
CALL = f"getattr(__import__('os'),'system')('touch {MARK}')"
PAYLOADS = {
    "getattr": f'__class__") and {CALL} or getattr(self, "__class__',
    "single quotes": CALL.replace("'", '"').join(["x') and ", " or ('"]),
    "call": CALL,
    "line end": f"x\n    {CALL}\n    y",
    "return": f"x\r{CALL}",
    "separator": f"x\u2028{CALL}",
    "backslash": f'x\\") + {CALL} #',
    "braces": "{" + CALL + "}",
    "decorator": f"x, y={CALL}",
    "annotation": f"x: {CALL}",
    "long": "a" * 100_000 + f'") or {CALL} #',
}


def network(
    change: Callable[[onnx.ModelProto], None], layers: Sequence[str] = ("first", "second")
) -> onnx.ModelProto:
    """A chain of Gemm and Relu, one pair for each name, with a change; from x (n, 3) to y (n, 3)."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])
    weights, nodes, last = [], [], "x"
    for index, name in enumerate(layers):
        weight, product = f"w{index}", f"a{index}"
        weights.append(numpy_helper.from_array(np.eye(3, dtype=np.float32), weight))
        nodes.append(helper.make_node("Gemm", [last, weight], [product], name))
        last = "y" if index == len(layers) - 1 else f"b{index}"
        nodes.append(helper.make_node("Relu", [product], [last], f"relu{index}"))
    graph = helper.make_graph(nodes, "g", [x], [y], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    change(model)
    return model


def rename(model: onnx.ModelProto, old: str, new: str) -> None:
    for value in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        value.name = new if value.name == old else value.name
    for node in model.graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                names[index] = new if name == old else name


def attach(model: onnx.ModelProto, text: str) -> None:
    """Give the first node an attribute of this name; the ONNX checker passes over those that begin with `__`."""
    model.graph.node[0].attribute.append(helper.make_attribute(text, text))


def _domain(model: onnx.ModelProto, text: str) -> None:
    model.opset_import.add(domain=text, version=1)


def _function(model: onnx.ModelProto, text: str) -> None:
    opsets = [helper.make_opsetid("", 18)]
    body = helper.make_node("Relu", ["i"], ["o"], text)
    model.functions.append(helper.make_function(text, text, ["i"], ["o"], [body], opsets))
    _domain(model, text)


def _call_function(model: onnx.ModelProto, text: str) -> None:
    _function(model, text)
    model.graph.node[1].op_type = model.graph.node[1].domain = text


PLACES: dict[str, Callable[[onnx.ModelProto, str], None]] = {
    "node": lambda m, text: setattr(m.graph.node[0], "name", text),
    "every node": lambda m, text: (
        [setattr(n, "name", f"{text}{i}") for i, n in enumerate(m.graph.node)] and None
    ),
    "initializer": lambda m, text: rename(m, "w0", text),
    "value": lambda m, text: rename(m, "a0", text),
    "input": lambda m, text: rename(m, "x", text),
    "output": lambda m, text: rename(m, "y", text),
    "graph": lambda m, text: setattr(m.graph, "name", text),
    "dimension": lambda m, text: setattr(m.graph.input[0].type.tensor_type.shape.dim[0], "dim_param", text),
    "domain": _domain,
    "function": _function,
    "called function": _call_function,
    "attribute": lambda m, text: attach(m, f"__{text}"),
    "documentation": lambda m, text: setattr(m.graph.node[0], "doc_string", text),
}


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[onnx.ModelProto], Model]]:
    """Ingests a graph from a file, in a folder in which no payload may leave its mark."""

    def ingested(graph: onnx.ModelProto) -> Model:
        onnx.save(graph, "net.onnx")
        return ingest(ModelSection(source="net.onnx"))

    monkeypatch.chdir(tmp_path)
    yield ingested
    assert not Path(MARK).exists()


def unchanged(model: onnx.ModelProto) -> None:
    """No change."""


def layer_names(model: Model) -> list[str]:
    return [layer_name(n) for n in layers_of(capture(model))]


def test_no_node_name_acts_as_code_and_the_layers_keep_their_names(
    read: Callable[[onnx.ModelProto], Model],
) -> None:
    texts = list(PAYLOADS.values())
    model = read(network(unchanged, texts))
    assert why_no_pass(model.module) is None
    assert layer_names(model) == texts
    assert [c.layer for c in place(capture(model)).coverage] == texts


@pytest.mark.parametrize("place_name", PLACES)
def test_no_name_in_any_place_acts_as_code(read: Callable[[onnx.ModelProto], Model], place_name: str) -> None:
    for text in PAYLOADS.values():
        graph = network(lambda m, text=text: PLACES[place_name](m, text))  # type: ignore[misc]
        module = read(graph).module
        assert why_no_pass(module) is None
        assert MARK not in str(module.code)


@pytest.mark.parametrize(
    "payload", sorted(PAYLOADS.keys() - {"getattr"})
)  # whose two underscores ONNX passes over
def test_an_attribute_that_its_operator_does_not_have_makes_the_file_invalid(
    read: Callable[[onnx.ModelProto], Model], payload: str
) -> None:
    with pytest.raises(CompressError, match=r"net\.onnx is not valid ONNX: Unrecognized attribute: "):
        read(network(lambda m: attach(m, PAYLOADS[payload])))


def test_the_exporter_takes_names_as_data(read: Callable[[onnx.ModelProto], Model]) -> None:
    def name_both(model: onnx.ModelProto) -> None:
        rename(model, "x", PAYLOADS["annotation"])
        rename(model, "y", PAYLOADS["getattr"])

    model = read(network(name_both, [PAYLOADS["backslash"], PAYLOADS["call"]]))
    graph = onnx.load(export(dataclasses.replace(model, onnx_path=None), Path("out.onnx"))).graph
    layers = [n.name for n in graph.node if n.op_type in ("MatMul", "Gemm")]
    assert layers == [PAYLOADS["backslash"], PAYLOADS["call"]]
    assert [graph.input[0].name, graph.output[0].name] == [PAYLOADS["annotation"], PAYLOADS["getattr"]]


def test_names_that_a_module_has_already_are_only_names(read: Callable[[onnx.ModelProto], Model]) -> None:
    names = [
        "forward",
        "__class__",
        "training",
        "graph",
        "code",
        "class",
        "initializers",
        "_modules",
        "層",
        "n2",
    ]
    model = read(network(unchanged, names))
    assert why_no_pass(model.module) is None
    assert layer_names(model) == names


def test_plain_names_stay_as_they_were(read: Callable[[onnx.ModelProto], Model]) -> None:
    names = layer_names(read(network(unchanged, ["/layer1/layer1.0/conv1/Gemm", "", "fc:0"])))
    assert names == ["layer1/layer1/0/conv1/Gemm", "Gemm", "fc:0"]


def test_nodes_of_one_name_are_numbered_and_names_of_ours_avoid_those_of_the_file() -> None:
    renamed, names = with_safe_names(network(unchanged, ["a b", "n0", "n0"]))
    assert [n.name for n in renamed.graph.node if n.op_type == "Gemm"] == ["n0", "n2", "n0_1"]
    assert names == {"n0": "a b", "n2": "n0"}
