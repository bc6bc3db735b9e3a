"""What runtimes refuse or compute wrongly, said in other operators: the same values, bit for bit where it can be."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from edgepress.targets import TARGETS
from edgepress.targets.base import TargetOptions
from edgepress.targets.graphs.portable import portable
from onnx import TensorProto, helper
from tiny_onnx import conv_float, conv_qdq, model_of
from torch import nn


def run(model, x, optimized=False):
    options = onnxruntime.SessionOptions()
    level = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimized else level.ORT_DISABLE_ALL
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, {"x": x})[0]


def one_node(node, shape, arrays=None, opset=19):
    model = model_of([node], arrays or {}, shape=shape, opset=opset)
    del model.graph.output[:]
    sizes = [f"d{i}" for i in range(len(shape))]
    model.graph.output.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, sizes))
    return model


def pool(k, s, p, **attributes):
    given = {"ceil_mode": 1, "count_include_pad": 1, **attributes}
    return helper.make_node(
        "AveragePool", ["x"], ["y"], "pool", kernel_shape=[k, k], strides=[s, s], pads=[p] * 4, **given
    )


def wrap(pads, shape=("N", 2, 5, 6), opset=19, axes=None):
    node = helper.make_node("Pad", ["x", "by", *(["", "axes"] if axes else [])], ["y"], "wrap", mode="wrap")
    arrays = {"by": np.asarray(pads, np.int64), **({"axes": np.asarray(axes, np.int64)} if axes else {})}
    return one_node(node, shape, arrays, opset)


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(conv_float(), id="a convolution"),
        pytest.param(conv_qdq(), id="a quantized convolution"),
        pytest.param(one_node(pool(3, 2, 1, ceil_mode=0), ("N", 2, 8, 8)), id="a pool that rounds down"),
        pytest.param(
            one_node(pool(3, 2, 1, count_include_pad=0), ("N", 2, 8, 8)), id="padding does not count"
        ),
        pytest.param(one_node(pool(3, 2, 0), ("N", 2, 8, 8)), id="a pool without padding"),
        pytest.param(one_node(pool(3, 2, 1), ("N", 2, "h", "w")), id="a pool of unknown size"),
        pytest.param(wrap([0, 0, 0, 7, 0, 0, 0, 0]), id="around more than once"),
        pytest.param(wrap([0, 0, 0, -1, 0, 0, 0, 2]), id="a crop"),
    ],
)
def test_what_must_stay_stays_byte_for_byte(model):
    before = model.SerializeToString(deterministic=True)
    assert portable(model) == 0
    assert model.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize(
    ("model", "amounts"),
    [
        pytest.param(wrap([0, 0, 1, 2, 0, 0, 3, 1]), ((0, 0), (0, 0), (1, 3), (2, 1)), id="four ends"),
        pytest.param(wrap([0, 0, 0, 2, 0, 0, 0, 0]), ((0, 0), (0, 0), (0, 0), (2, 0)), id="one end"),
        pytest.param(wrap([0, 0, 5, 6, 0, 0, 5, 6]), ((0, 0), (0, 0), (5, 5), (6, 6)), id="all of it"),
        pytest.param(wrap([0, 1, 0, 0, 0, 1, 0, 0]), ((0, 0), (1, 1), (0, 0), (0, 0)), id="channels"),
        pytest.param(wrap([2, 1], axes=[-1]), ((0, 0), (0, 0), (0, 0), (2, 1)), id="axes named from the end"),
        pytest.param(wrap([0] * 8), ((0, 0),) * 4, id="nothing"),
    ],
)  # fmt: skip
def test_circular_padding_becomes_slices_with_the_same_values(model, amounts):
    x = np.random.default_rng(0).standard_normal((2, 2, 5, 6)).astype(np.float32)
    assert portable(model) == 1
    onnx.checker.check_model(model, full_check=True)
    assert {n.op_type for n in model.graph.node} <= {"Slice", "Concat", "Identity"}
    assert np.array_equal(run(model, x), np.pad(x, amounts, mode="wrap"))


@pytest.mark.parametrize(("size", "k", "s", "p"), [
    c for c in itertools.product((5, 6, 7, 8), (2, 3, 5), (2, 3, 4), (1, 2)) if 2 * c[3] <= c[1]
])  # fmt: skip
def test_a_pool_that_rounds_up_and_counts_padding_is_torchs(size, k, s, p):
    model = one_node(pool(k, s, p), ("N", 2, size, size + 1))
    x = np.random.default_rng(0).standard_normal((2, 2, size, size + 1)).astype(np.float32) + 1
    want = nn.AvgPool2d(k, s, p, ceil_mode=True)(torch.from_numpy(x)).numpy()
    assert portable(model) == 1
    onnx.checker.check_model(model, full_check=True)
    for optimized in (False, True):
        assert np.allclose(run(model, x, optimized), want, atol=1e-6)  # sums of at most 25 in another order


@pytest.mark.parametrize("target", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("model", [wrap([0, 0, 1, 1, 0, 0, 1, 1], (1, 2, 5, 6)),
                                   one_node(pool(3, 2, 1), (1, 2, 8, 8))], ids=["wrap", "pool"])  # fmt: skip
def test_a_file_with_such_a_node_is_built_with_the_right_values(model, target, save, tmp_path):
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    path = save(model)
    engine = TARGETS[target].build(path, TargetOptions(float_precision="f32"), tmp_path / "engine")
    assert np.allclose(engine.run({"x": x})[0], run(model, x), atol=1e-6)


def test_lint_names_what_the_file_as_it_is_would_meet(save):
    found = TARGETS["openvino"].lint(save(wrap([0, 0, 1, 1, 0, 0, 1, 1], (1, 2, 5, 6))))
    assert [(lint.node, lint.severity) for lint in found] == [("wrap", "refused")]
    assert "circular padding" in found[0].problem and "compress lint" not in str(found)
    found = TARGETS["onnxruntime"].lint(save(one_node(pool(3, 2, 1), (1, 2, 8, 8))))
    assert [(lint.node, lint.severity) for lint in found] == [("pool", "wrong")]


def shared_kernel(quantized):
    """Convolution and transposed convolution by one kernel, as tied autoencoders have it."""
    weight = np.random.default_rng(0).integers(-9, 9, (8, 8, 3, 3))
    arrays = {"w": weight.astype(np.int8 if quantized else np.float32)}
    nodes = []
    if quantized:
        arrays |= {"s": np.full(8, 0.1, np.float32), "z": np.zeros(8, np.int8)}
        nodes = [helper.make_node("DequantizeLinear", ["w", "s", "z"], ["wf"], "dequantize", axis=0)]
    kernel = "wf" if quantized else "w"
    nodes += [
        helper.make_node("Conv", ["x", kernel], ["c"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("ConvTranspose", ["c", kernel], ["y"], "transposed", pads=[1, 1, 1, 1]),
    ]
    return model_of(nodes, arrays)


@pytest.mark.parametrize("quantized", [False, True])
def test_a_kernel_of_two_kinds_of_layer_is_stored_for_each(quantized, feeds):
    model = shared_kernel(quantized)
    want = run(model, feeds["x"])
    assert portable(model) == 1
    read = [n.input[1] for n in model.graph.node if n.op_type in ("Conv", "ConvTranspose")]
    assert len(set(read)) == 2
    assert np.array_equal(run(model, feeds["x"]), want)
    assert portable(model) == 0
