"""What must be left alone, then what must be found."""

from __future__ import annotations

import numpy as np
import pytest
from edgepress.errors import CompressError
from edgepress.targets import TARGETS, tensorrt
from onnx import TensorProto, helper
from tiny_onnx import conv_float, conv_qdq, model_of

needs_tensorrt = pytest.mark.skipif(
    tensorrt.library() is None, reason="no tensorrt or tensorrt_rtx installed"
)

scatter = [helper.make_node("ScatterElements", ["x", "i", "u"], ["y"], "scatter", axis=1, reduction="add")]
plain_scatter = [helper.make_node("ScatterElements", ["x", "i", "u"], ["y"], "scatter", axis=1)]
places = {"i": np.zeros((1, 8, 8, 8), np.int64), "u": np.ones((1, 8, 8, 8), np.float32)}


def half():
    model = conv_qdq(dtype=TensorProto.FLOAT16)
    for tensor in model.graph.initializer:
        if tensor.name in {"s", "ws"}:
            array = np.frombuffer(tensor.raw_data, np.float32).astype(np.float16)
            tensor.raw_data, tensor.data_type = array.tobytes(), TensorProto.FLOAT16
    for value in model.graph.output:
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    return model


@pytest.mark.parametrize(
    ("target", "model"),
    [
        pytest.param("tensorrt", conv_qdq(), id="the grid that every runtime accepts, on TensorRT"),
        pytest.param("openvino", conv_qdq(), id="the same on OpenVINO"),
        pytest.param("onnxruntime", conv_qdq(), id="the same on onnxruntime"),
        pytest.param("tensorrt", conv_float(), id="a float model is not asked to be quantized, TensorRT"),
        pytest.param("openvino", conv_float(), id="a float model is not asked to be quantized, OpenVINO"),
        pytest.param(
            "onnxruntime", conv_float(), id="a float model is not asked to be quantized, onnxruntime"
        ),
        pytest.param("openvino", conv_qdq(np.uint8(9)), id="a zero point is fine on OpenVINO"),
        pytest.param("onnxruntime", conv_qdq(np.uint8(9)), id="a zero point is fine on onnxruntime"),
        pytest.param("openvino", conv_qdq(bias="int32"), id="an int32 bias is fine on OpenVINO"),
        pytest.param("onnxruntime", conv_qdq(bias="int32"), id="an int32 bias is fine on onnxruntime"),
        pytest.param("openvino", half(), id="float16 scales are fine on OpenVINO"),
        pytest.param("onnxruntime", conv_qdq(weight="float-q-clip"), id="onnxruntime folds Q -> Clip"),
        pytest.param(
            "tensorrt", conv_qdq(weight="float-q-clip"), id="TensorRT folds Q -> Clip of a float weight"
        ),
        pytest.param("tensorrt", model_of(plain_scatter, places), id="ScatterElements without a reduction"),
        pytest.param(
            "onnxruntime", model_of(scatter, places), id="a scatter reduction is fine on onnxruntime"
        ),
        pytest.param("openvino", conv_qdq(opset=20, ir=10), id="opset 20 and IR 10 are not too new"),
    ],
)
def test_left_alone(save, target, model):
    assert TARGETS[target].lint(save(model)) == []


@pytest.mark.parametrize(
    ("target", "model", "node", "severity", "problem"),
    [
        pytest.param("tensorrt", conv_qdq(np.int8(3)), "q_in", "refused", "zero point 3", id="zero point"),
        pytest.param(
            "tensorrt", conv_qdq(np.uint8(0)), "q_in", "clips", "127 x scale", id="uint8 at 0 clips"
        ),
        pytest.param(
            "tensorrt", conv_qdq(bias="int32"), "dq_bias", "refused", "int32 bias 'b'", id="int32 bias"
        ),
        pytest.param(
            "tensorrt", conv_qdq(weight="int8-clip"), "clip", "refused", "int8 constant", id="int8 Clip"
        ),
        pytest.param(
            "openvino", conv_qdq(weight="int8-clip"), "clip", "float", "int8 constant", id="OV int8 Clip"
        ),
        pytest.param(
            "openvino", conv_qdq(weight="float-q-clip"), "clip", "float", "float weight", id="OV Clip"
        ),
        pytest.param(
            "tensorrt", model_of(scatter, places), "scatter", "refused", "reduction 'add'", id="scatter"
        ),
        pytest.param("tensorrt", conv_qdq(opset=21), "", "refused", "opset 21", id="opset"),
        pytest.param("onnxruntime", conv_qdq(ir=11), "", "refused", "IR version 11", id="IR version"),
        pytest.param("onnxruntime", half(), "q_in", "float", "float16 scale", id="float16 scales"),
        *(
            pytest.param(
                t, conv_qdq(weight="float"), "conv", "float", "reads 'wd' without Q/DQ", id=f"{t} weight"
            )
            for t in TARGETS
        ),
        *(
            pytest.param(
                t, conv_qdq(quantize_input=False), "conv", "float", "reads 'x' without", id=f"{t} input"
            )
            for t in TARGETS
        ),
    ],
)
def test_found(save, target, model, node, severity, problem):
    found = [x for x in TARGETS[target].lint(save(model)) if (x.node, x.severity) == (node, severity)]
    assert found and problem in found[0].problem and found[0].fix


def test_openvino_tells_by_its_own_word_which_layer_runs_in_float_although_it_has_qdq(save):
    """A rule names the Clip; the runtime itself names the convolution behind it."""
    found = {x.node: x for x in TARGETS["openvino"].lint(save(conv_qdq(weight="float-q-clip")))}
    assert set(found) == {"clip", "conv"} and "OpenVINO says that it runs it in" in found["conv"].problem


@needs_tensorrt
def test_tensorrt_itself_names_the_node_it_refuses(save):
    node = helper.make_node("Bernoulli", ["x"], ["y"], "noise", seed=0.0)
    found = TARGETS["tensorrt"].lint(save(model_of([node], {})))
    assert [x.node for x in found] == ["noise"] and "Bernoulli" in found[0].problem


def test_a_file_that_is_not_onnx_is_named(tmp_path):
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"no model at all")
    for target in TARGETS.values():
        with pytest.raises(CompressError, match=r"broken\.onnx: "):
            target.lint(path)


@needs_tensorrt
def test_sizes_that_a_file_leaves_open_are_a_finding_of_tensorrt_with_the_option_that_states_them(save):
    """Not an error: the other runtimes run such a file, and their findings are told."""
    model = conv_float()
    for axis in (2, 3):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = f"size{axis}"
    found = tensorrt.lint(save(model))
    assert [(lint.node, lint.severity) for lint in found] == [("", "refused")]
    assert "--input-shape x=3x224x224" in found[0].fix
