"""ONNX files of a few bytes that ask for any time or memory: one message, in bounded time, and the exit code."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from edgepress.cli import cli
from edgepress.errors import CompressError
from edgepress.pipeline.onnx_files.file import read_graph, read_onnx
from edgepress.pipeline.onnx_files.network import converted
from onnx import TensorProto, helper, numpy_helper

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def save(path: Path, nodes: list[onnx.NodeProto], stored: dict[str, np.ndarray], **options: object) -> None:
    """A graph from x (n, 2), or the shape of options["x"], to y."""
    x = helper.make_tensor_value_info("x", FLOAT, options.pop("x", ["n", 2]))
    y = helper.make_tensor_value_info("y", FLOAT, ["a", "b"])
    tensors = [numpy_helper.from_array(value, name) for name, value in stored.items()]
    graph = helper.make_graph(nodes, "g", [x], [y], tensors)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("my", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9, **options), path)


def endless_loop(path: Path) -> None:
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["d"]), helper.make_node("Add", ["v", "v"], ["w"])],
        "body",
        [
            helper.make_tensor_value_info("i", INT64, []),
            helper.make_tensor_value_info("c", BOOL, []),
            helper.make_tensor_value_info("v", FLOAT, ["n", 2]),
        ],
        [helper.make_tensor_value_info("d", BOOL, []), helper.make_tensor_value_info("w", FLOAT, ["n", 2])],
    )
    turns = {"turns": np.array(2**62, np.int64), "go": np.array(True)}
    save(path, [helper.make_node("Loop", ["turns", "go", "x"], ["y"], body=body)], turns)


def nested_functions(path: Path) -> None:
    """Each of 40 functions calls the one before twice."""
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("my", 1)]
    functions = [
        helper.make_function("my", "F0", ["a"], ["b"], [helper.make_node("Relu", ["a"], ["b"])], opsets)
    ]
    for level in range(1, 41):
        inner = f"F{level - 1}"
        calls = [helper.make_node(inner, [a], [b], domain="my") for a, b in (("a", "m"), ("m", "b"))]
        functions.append(helper.make_function("my", f"F{level}", ["a"], ["b"], calls, opsets))
    save(path, [helper.make_node("F40", ["x"], ["y"], domain="my")], {}, functions=functions)


def vast_constant(path: Path) -> None:
    nodes = [
        helper.make_node("ConstantOfShape", ["size"], ["k"]),
        helper.make_node("ReduceSum", ["k"], ["r"], keepdims=0),
        helper.make_node("Add", ["x", "r"], ["y"]),
    ]
    save(path, nodes, {"size": np.array([2**29], np.int64)})


def vast_input(path: Path) -> None:
    save(path, [helper.make_node("Relu", ["x"], ["y"])], {}, x=[1, 2**40])


def vast_batch(path: Path) -> None:
    weight = {"w": np.ones((2, 3), np.float32)}
    save(path, [helper.make_node("MatMul", ["x", "w"], ["y"])], weight, x=[2**31 - 1, 2])


REFUSED = {
    "functions": (nested_functions, "its functions call each other until there are over 200,000 operators"),
    "input": (vast_input, "input 'x' of shape [1, 1099511627776] takes more than 4 GiB for one call"),
    "batch": (vast_batch, "input 'x' of shape [2147483647, 2] takes more than 4 GiB for one call"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("read", [read_onnx, read_graph])
def test_what_is_seen_without_running_anything(
    tmp_path: Path, name: str, read: Callable[[Path], onnx.ModelProto]
) -> None:
    make, message = REFUSED[name]
    make(tmp_path / "net.onnx")
    with pytest.raises(CompressError, match=re.escape(message)) as caught:
        read(tmp_path / "net.onnx")
    assert int(caught.value.exit_code) == 2


@pytest.mark.parametrize(
    ("make", "name", "limit", "message"),
    [
        (endless_loop, "SECONDS", "3", "no answer within 3 s (COMPRESS_CHILD_SECONDS raises it)"),
        (vast_constant, "BYTES", "1.2e9", "more than 1.2 GB of memory (COMPRESS_CHILD_BYTES raises it)"),
    ],
    ids=["loop", "constant"],
)
def test_what_takes_too_much_ends_with_one_message(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[Path], None],
    name: str,
    limit: str,
    message: str,
) -> None:
    monkeypatch.setenv(f"COMPRESS_CHILD_{name}", limit)
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "net.onnx")
    result = CliRunner().invoke(cli, ["inspect", "net.onnx"])
    assert result.exit_code == 2
    assert result.stderr == f"error: {message} while inspecting net.onnx\n"


def test_many_nodes_are_read_but_not_converted(tmp_path: Path) -> None:
    names = ["x", *(f"v{i}" for i in range(20_000)), "y"]
    save(tmp_path / "net.onnx", [helper.make_node("Relu", [a], [b]) for a, b in pairwise(names)], {})
    model = read_onnx(tmp_path / "net.onnx")
    why = "it has 20,001 nodes, and a conversion takes at most 20,000"
    assert converted(model, (torch.ones(1, 2),)) == why


def test_nodes_are_counted_with_functions_in_place(tmp_path: Path) -> None:
    nested_functions(tmp_path / "net.onnx")
    model = onnx.load(tmp_path / "net.onnx")
    model.graph.node[0].op_type = "F15"
    why = "it has 32,768 nodes, and a conversion takes at most 20,000"
    assert converted(model, (torch.ones(1, 2),)) == why


def test_lint_says_of_an_invalid_file_what_inspect_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "net.onnx", [helper.make_node("Relu", ["x", "x"], ["y"])], {})
    said = [CliRunner().invoke(cli, [command, "net.onnx"]) for command in ("lint", "inspect")]
    assert [result.exit_code for result in said] == [2, 2]
    assert said[0].stderr == said[1].stderr
    assert (
        "net.onnx is not valid ONNX: Node with schema(::Relu:14) has input size 2 not in range"
        in said[0].stderr
    )


def test_lint_of_more_multiplications_than_can_be_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A picture of 2^31 x 2^31 pixels that nobody stores: lint runs nothing, and says what it says of a small one."""
    monkeypatch.chdir(tmp_path)
    nodes = [
        helper.make_node("Expand", ["x", "size"], ["vast"], "expand"),
        helper.make_node("Conv", ["vast", "w"], ["c"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["c"], ["y"], "pool"),
    ]
    stored = {"size": np.array([1, 1, 2**31, 2**31], np.int64), "w": np.ones((1, 1, 3, 3), np.float32)}
    save(tmp_path / "net.onnx", nodes, stored, x=[1, 1, 1, 1])
    result = CliRunner().invoke(cli, ["lint", "net.onnx"])
    assert "onnxruntime: net.onnx is clean" in result.output
    assert "internal error" not in result.stderr
