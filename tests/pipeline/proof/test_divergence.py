"""The first layer that differs: by files in which one node was changed, and by a runtime that computes one wrongly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from edgepress.errors import CompressError
from edgepress.pipeline.onnx_files.cut import Cuts, values_of
from edgepress.pipeline.proof.divergence import APART_DB, EQUAL_DB, Suspect, _Search, _where, db, where
from edgepress.targets.base import TargetOptions
from onnx import TensorProto, helper, numpy_helper

F32 = TargetOptions(float_precision="f32")
DEPTH = 12


def chain(folder: Path, *extra: Any, wrong: int | None = None) -> Path:
    """Twelve convolutions with ReLUs; the weight of the one that is `wrong` is negated."""
    draw = np.random.default_rng(0)
    weights, nodes, tensor = [], [], "x"
    for i in range(DEPTH):
        weight = draw.standard_normal((4, 4, 3, 3)).astype(np.float32) / 4
        weights.append(numpy_helper.from_array(-weight if i == wrong else weight, f"w{i}"))
        nodes.append(helper.make_node("Conv", [tensor, f"w{i}"], [f"c{i}"], f"conv{i}", pads=[1] * 4))
        nodes.append(helper.make_node("Relu", [f"c{i}"], [f"r{i}"], f"relu{i}"))
        tensor = f"r{i}"
    return saved(folder, [*nodes, *extra], tensor if not extra else extra[-1].output[0], weights)


def saved(
    folder: Path, nodes: list[Any], output: str, weights: list[Any], shape: tuple[int, ...] = (1, 4, 8, 8)
) -> Path:
    ends = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, shape),
        helper.make_tensor_value_info(output, TensorProto.FLOAT, [f"d{i}" for i in range(4)]),
    ]
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], weights)
    path = folder / f"{len(list(folder.iterdir()))}.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9), str(path))
    return path


def samples(*shape: int) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(1).standard_normal(shape or (1, 4, 8, 8)).astype(np.float32)}


CAUSE = "dB with the right inputs, so that it is the cause"


@pytest.mark.parametrize(
    ("wrong", "begins", "ends"),
    [
        (0, "'conv0' (Conv, pads [1, 1, 1, 1]): the first of the network, SQNR ", " dB after"),
        (5, "'conv5' (Conv, pads [1, 1, 1, 1]): SQNR ", CAUSE),
        (DEPTH - 1, f"'conv{DEPTH - 1}' (Conv, pads [1, 1, 1, 1]): SQNR ", CAUSE),
    ],
)
def test_the_node_that_was_changed_is_named_with_what_it_does_alone(
    wrong: int, begins: str, ends: str, tmp_path: Path
) -> None:
    right = values_of(onnx.load(chain(tmp_path)), samples())
    suspect = Suspect(chain(tmp_path, wrong=wrong), "onnxruntime", F32, as_is=True)
    found = _where(suspect, samples(), right)
    assert found.startswith(begins) and found.endswith(ends)


def test_it_takes_few_builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgepress.targets import onnxruntime

    opened = []
    load = onnxruntime.load
    monkeypatch.setattr(onnxruntime, "load", lambda *a: opened.append(a) or load(*a))
    right = values_of(onnx.load(chain(tmp_path)), samples())
    _where(Suspect(chain(tmp_path, wrong=7), "onnxruntime", F32, as_is=True), samples(), right)
    assert len(opened) <= 8  # the whole, log2(24) halves, the node alone


def test_a_pool_that_openvino_computes_wrongly_is_named_by_a_process_of_its_own(tmp_path: Path) -> None:
    pool = helper.make_node(
        "AveragePool", [f"r{DEPTH - 1}"], ["p"], "pool", kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4,
        ceil_mode=1, count_include_pad=1,
    )  # fmt: skip
    path = chain(tmp_path, pool, helper.make_node("Relu", ["p"], ["y"], "last"))
    found = where(Suspect(path, "openvino", F32, as_is=True), samples())
    assert found.startswith(
        "'pool' (AveragePool, ceil_mode 1, count_include_pad 1, kernel_shape [3, 3], pads"
    )
    assert "so that it is the cause" in found


def test_a_search_without_time_says_between_which_nodes(tmp_path: Path) -> None:
    right = values_of(onnx.load(chain(tmp_path)), samples())
    suspect = Suspect(chain(tmp_path, wrong=5), "onnxruntime", F32, as_is=True, seconds=0.0)
    assert _where(suspect, samples(), right) == (
        "between 'conv0' (Conv) and 'relu11' (Relu) (the search was given up after 0 s)"
    )


def test_nothing_is_named_where_nothing_differs(tmp_path: Path) -> None:
    assert where(Suspect(chain(tmp_path), "onnxruntime", F32, as_is=True), samples()) == (
        "the layer was not found: on this sample the graph computed on its own gives the right values"
    )


def test_a_file_that_cannot_be_read_is_a_reason_and_no_error(tmp_path: Path) -> None:
    found = where(Suspect(tmp_path / "no.onnx", "onnxruntime", F32), samples())
    assert found.startswith("the layer was not found: ") and "no such file" in found


def test_quantizers_stay_with_what_reads_their_integers(tmp_path: Path) -> None:
    scale, zero = numpy_helper.from_array(np.float32(0.1), "s"), numpy_helper.from_array(np.int8(0), "z")
    weight = numpy_helper.from_array(np.ones((4, 4, 1, 1), np.int8), "w")
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], "quantize"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], "dequantize"),
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["wd"], "weight"),
        helper.make_node("Conv", ["d", "wd"], ["c"], "conv"),
        helper.make_node("Neg", ["c"], ["y"], "neg"),
    ]
    right = values_of(onnx.load(saved(tmp_path, nodes, "y", [scale, zero, weight])), samples())
    nodes[3] = helper.make_node("Conv", ["d", "wd"], ["c"], "conv", pads=[0] * 4, strides=[1, 1])
    nodes[4] = helper.make_node("Abs", ["c"], ["y"], "abs")
    found = _where(
        Suspect(saved(tmp_path, nodes, "y", [scale, zero, weight]), "onnxruntime", F32, limit_db=15),
        samples(),
        right,
    )
    assert found.startswith("'abs' (Abs): SQNR ") and "the cause" in found


@pytest.mark.parametrize(
    ("expected", "found", "decibels"),
    [
        pytest.param([3.0, 4.0], [3.0, 4.5], 20.0, id="25 over 0.25"),
        pytest.param([1.0, -np.inf], [1.0, -np.inf], EQUAL_DB, id="the same infinities"),
        pytest.param([1.0, -np.inf], [1.0, -9.0], APART_DB, id="an infinity that is none"),
        pytest.param([1.0, 2.0], [1.0, np.nan], APART_DB, id="no number"),
        pytest.param([1.0], [1.0, 2.0], APART_DB, id="another shape"),
        pytest.param([0.0, 0.0], [0.0, 0.0], EQUAL_DB, id="zeros"),
    ],
)
def test_decibels_by_hand(expected: list[float], found: list[float], decibels: float) -> None:
    assert db(np.array(expected), np.array(found)) == pytest.approx(decibels)


def test_integers_are_the_same_when_nineteen_of_twenty_are() -> None:
    one, other = np.zeros(20, np.int64), np.zeros(20, np.int64)
    other[0] = 9
    assert db(one, other) == EQUAL_DB
    other[1] = 9
    assert db(one, other) == APART_DB


def test_what_agrees_on_few_samples_is_said_of_those_only(tmp_path: Path) -> None:
    right = values_of(onnx.load(chain(tmp_path)), samples())
    last = f"r{DEPTH - 1}"
    right[last] = right[last] + 1e-4 * np.abs(right[last]).max()  # 60 to 90 dB
    suspect = Suspect(chain(tmp_path), "onnxruntime", F32, as_is=True, limit_db=40.0, found_db=12.0)
    found = _where(suspect, samples(), right)
    assert found.startswith(
        "none: on this sample onnxruntime agrees with the ONNX file computed node by node ("
    )
    assert found.endswith(
        " dB): the fault depends on other samples or the batch size, or lies in what it was compared with"
    )


@pytest.mark.parametrize(
    ("refused", "ends"),
    [
        ("all", "; it could not be computed on its own (this stretch is refused)"),
        ("longer", "; it is right alone (200.0 dB), and what is before it could not be computed with it"),
    ],
)
def test_a_stretch_that_the_runtime_refuses_keeps_what_was_found(
    refused: str, ends: str, tmp_path: Path
) -> None:
    """Errors that add up, in a runtime that takes nothing but what begins at the network's inputs."""
    right = values_of(onnx.load(chain(tmp_path)), samples())
    suspect = Suspect(chain(tmp_path, wrong=5), "onnxruntime", F32, as_is=True)

    class Refusing(_Search):
        def _measure(self, model: Any, feeds: Any, outputs: Any) -> float:
            if "x" not in feeds and (refused == "all" or len(model.graph.node) > 1):
                raise CompressError("this stretch is refused")
            found = super()._measure(model, feeds, outputs)
            return found if "x" in feeds else EQUAL_DB

    found = Refusing(suspect, Cuts(onnx.load(suspect.onnx_path), right), "this sample").told()
    assert found.startswith("'conv5' (Conv, pads [1, 1, 1, 1]): SQNR ") and found.endswith(ends)
