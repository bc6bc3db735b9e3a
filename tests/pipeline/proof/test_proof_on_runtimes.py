"""Proofs between real runtimes: a head that ranks nearly equal scores, and a network with a mask as second input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from edgepress.calibration.data import Part
from edgepress.model import Forward
from edgepress.pipeline.proof.edges import FLOAT_LIMIT, LOW_PRECISION_LIMIT, Limit, Outputs, outputs_of, prove
from edgepress.pipeline.proof.ranked import ranked_outputs
from edgepress.targets import TARGETS
from edgepress.targets.base import BuiltOnly, TargetOptions
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

QUERIES, KEPT, WIDTH, SAMPLES = 24, 8, 16, 16
DRAW = np.random.default_rng(0)


def node(kind: str, reads: str, makes: str, **attributes: int) -> onnx.NodeProto:
    return helper.make_node(kind, reads.split(), makes.split(), makes.split()[0], **attributes)


def saved(
    path: Path, nodes: list[onnx.NodeProto], arrays: dict[str, np.ndarray],
    ends: tuple[dict[str, tuple[int, list[int | str]]], dict[str, tuple[int, list[int | str]]]],
) -> Path:  # fmt: skip
    inputs, outputs = ([helper.make_tensor_value_info(n, *kind) for n, kind in end.items()] for end in ends)
    made = [numpy_helper.from_array(value, name) for name, value in arrays.items()]
    graph = helper.make_graph(nodes, "net", inputs, outputs, made)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9), str(path))
    return path


def top_k(path: Path, int8: bool) -> Path:
    """Scores in pairs that are a thousandth apart, the best eight of them, their queries and their boxes."""
    weight = np.repeat(DRAW.standard_normal((WIDTH, QUERIES // 2)).astype(np.float32), 2, axis=1) / 4
    bias = np.arange(QUERIES, dtype=np.float32) * 1e-3
    boxes = DRAW.standard_normal((WIDTH, QUERIES * 4)).astype(np.float32)
    scale, step = np.float32(4 / 127), np.float32(np.abs(weight).max() / 127)
    arrays = {
        "bias": bias, "wb": boxes, "k": np.array([KEPT]), "form": np.array([-1, QUERIES, 4]), "one": np.array([2]),
        "four": np.array([1, 1, 4]), "zero": np.int8(0), "s": scale, "sw": step,
    }  # fmt: skip
    if int8:
        arrays["w8"] = np.round(weight / step).astype(np.int8)
        first = [
            node("QuantizeLinear", "x s zero", "q"), node("DequantizeLinear", "q s zero", "d"),
            node("DequantizeLinear", "w8 sw zero", "w"), node("MatMul", "d w", "product"),
        ]  # fmt: skip
    else:
        arrays["w"] = weight
        first = [node("MatMul", "x w", "product")]
    nodes = [
        *first,
        node("Add", "product bias", "all"),
        node("TopK", "all k", "scores ids"),
        node("MatMul", "x wb", "flat"),
        node("Reshape", "flat form", "places"),
        node("Unsqueeze", "ids one", "column"),
        node("Tile", "column four", "wide"),
        node("GatherElements", "places wide", "boxes", axis=1),
    ]
    outputs = {
        "scores": (TensorProto.FLOAT, ["n", KEPT]),
        "ids": (TensorProto.INT64, ["n", KEPT]),
        "boxes": (TensorProto.FLOAT, ["n", KEPT, 4]),
    }
    return saved(path, nodes, arrays, ({"x": (TensorProto.FLOAT, ["n", WIDTH])}, outputs))


def masked(path: Path) -> Path:
    """Scores of five tokens, minus infinity where a mask says so, and their softmax."""
    arrays = {"w": DRAW.standard_normal((WIDTH, 1)).astype(np.float32), "last": np.array([2])}
    arrays["no"] = np.array(-np.inf, np.float32)
    nodes = [
        node("MatMul", "x w", "column"),
        node("Squeeze", "column last", "raw"),
        node("Where", "mask raw no", "scores"),
        node("Softmax", "scores", "shares", axis=1),
    ]
    inputs = {"x": (TensorProto.FLOAT, ["n", 5, WIDTH]), "mask": (TensorProto.BOOL, ["n", 5])}
    outputs = {name: (TensorProto.FLOAT, ["n", 5]) for name in ("scores", "shares")}
    return saved(path, nodes, arrays, (inputs, outputs))


def outputs_on(
    runtime: str, path: Path, precision: str, samples: list[tuple[Tensor, ...]], names: list[str]
) -> Outputs:
    options = TargetOptions(float_precision=precision)  # type: ignore[arg-type]
    engine = TARGETS[runtime].build(path, options, path.parent / f"{runtime}-{precision}")
    assert not isinstance(engine, BuiltOnly)

    def forward(*inputs: Tensor) -> tuple[Tensor, ...]:
        found = engine.run({name: x.numpy() for name, x in zip(names, inputs, strict=True)})
        return tuple(torch.from_numpy(np.asarray(y)) for y in found)

    run: Forward = forward
    part = Part("validation", [(inputs, torch.tensor(0)) for inputs in samples])
    return outputs_of(run, part, 4)


@pytest.mark.parametrize(
    ("int8", "precision", "limit"),
    [
        pytest.param(False, "f32", FLOAT_LIMIT, id="float32"),
        pytest.param(False, "default", LOW_PRECISION_LIMIT, id="the runtime's own precision, BF16 on some"),
        pytest.param(True, "f32", LOW_PRECISION_LIMIT, id="int8"),
    ],
)
def test_nearly_equal_scores_change_places_and_wrong_boxes_fail(
    int8: bool, precision: str, limit: Limit, tmp_path: Path
) -> None:
    path = top_k(tmp_path / "top.onnx", int8)
    samples = [(torch.from_numpy(DRAW.standard_normal(WIDTH).astype(np.float32)),) for _ in range(SAMPLES)]
    before = outputs_on("onnxruntime", path, "f32", samples, ["x"])
    after = outputs_on("openvino", path, precision, samples, ["x"])
    ranked = ranked_outputs(path)
    assert ranked == [[0, 1, 2]]
    record = prove("a → b", before, after, limit, ("scores", "ids", "boxes"), ranked)
    assert record.ok, record
    turned = [(scores, ids, boxes.roll(1, 1)) for scores, ids, boxes in after]
    assert not prove("a → b", before, turned, limit, ("scores", "ids", "boxes"), ranked).ok


@pytest.mark.parametrize(("precision", "limit"), [("f32", FLOAT_LIMIT), ("default", LOW_PRECISION_LIMIT)])
def test_a_mask_as_second_input_keeps_its_infinities(precision: str, limit: Limit, tmp_path: Path) -> None:
    path = masked(tmp_path / "masked.onnx")
    samples = [
        (torch.from_numpy(DRAW.standard_normal((5, WIDTH)).astype(np.float32)), torch.arange(5) <= i % 5)
        for i in range(SAMPLES)
    ]
    before = outputs_on("onnxruntime", path, "f32", samples, ["x", "mask"])
    after = outputs_on("openvino", path, precision, samples, ["x", "mask"])
    assert ranked_outputs(path) == []
    record = prove("a → b", before, after, limit, ("scores", "shares"))
    assert record.ok and record.top1_agreement is not None, record
    other = [(inputs, ~mask) for inputs, mask in samples[:-1]]
    elsewhere = outputs_on("openvino", path, precision, [*other, samples[-1]], ["x", "mask"])
    assert not prove("a → b", before, elsewhere, limit, ("scores", "shares")).ok
