"""Building, running and what was executed, on the real runtimes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as vendor
import pytest
from edgepress.errors import CompressError, DeviceUnavailableError
from edgepress.targets import TARGETS, tensorrt
from edgepress.targets.base import TargetOptions
from edgepress.targets.doctor import doctor
from edgepress.targets.graphs.attribution import Executed, attribute, precision_shares
from edgepress.targets.graphs.fusable import fusable, trim_to_unsigned
from edgepress.targets.graphs.onnx_graph import OnnxGraph
from edgepress.targets.tensorrt_engine import executed_layers
from onnx import helper, numpy_helper
from tiny_onnx import CONV_MACS, LIMIT, conv_float, conv_qdq, model_of

needs_tensorrt = pytest.mark.skipif(
    tensorrt.library() is None, reason="no tensorrt or tensorrt_rtx installed"
)
RUN = ("openvino", "onnxruntime")


def unoptimized(model, feeds):
    """The first output as onnxruntime computes it node by node."""
    plain = vendor.SessionOptions()
    plain.graph_optimization_level = vendor.GraphOptimizationLevel.ORT_DISABLE_ALL
    return vendor.InferenceSession(model.SerializeToString(), plain).run(None, feeds)[0]


def clipped(low=-0.1, high=1.0):
    """`conv_qdq` with a Clip for its Relu, as it is to bounds that lie between two steps of the grid."""
    model = conv_qdq()
    for node in model.graph.node:
        if node.op_type == "Relu":
            node.op_type = "Clip"
            node.input.extend(["low", "high"])
    for name, value in (("low", low), ("high", high)):
        model.graph.initializer.append(numpy_helper.from_array(np.float32(value), name))
    return model


def mac_layers(engine, feeds):
    return [layer for layer in engine.layers(feeds, 3) if layer.macs]


@pytest.mark.parametrize("target", RUN)
def test_a_quantized_convolution_executes_int8_by_the_runtimes_own_word(save, feeds, tmp_path, target):
    engine = TARGETS[target].build(save(conv_qdq()), TargetOptions(float_precision="f32"), tmp_path / "out")
    (layer,) = mac_layers(engine, feeds)
    assert (layer.precision, layer.macs) == ("int8", CONV_MACS)
    assert "conv" in layer.onnx_nodes and layer.ms is not None


@pytest.mark.parametrize("target", RUN)
@pytest.mark.parametrize(
    "model",
    [
        pytest.param(conv_float(), id="float"),
        pytest.param(conv_qdq(quantize_input=False), id="half-quantized"),
    ],
)
def test_a_float_convolution_does_not(save, feeds, tmp_path, target, model):
    engine = TARGETS[target].build(save(model), TargetOptions(float_precision="f32"), tmp_path / "out")
    (layer,) = mac_layers(engine, feeds)
    assert (layer.precision, layer.macs) == ("f32", CONV_MACS)


def test_openvino_runs_an_unfolded_weight_in_float_and_says_so(save, feeds, tmp_path):
    options = TargetOptions(float_precision="f32")
    engine = TARGETS["openvino"].build(save(conv_qdq(weight="float-q-clip")), options, tmp_path / "out")
    assert precision_shares(engine.layers(feeds, 2)) == {"f32": 1.0}


@pytest.mark.parametrize("target", RUN)
def test_outputs_are_those_of_the_unoptimized_model(save, feeds, tmp_path, target):
    expected = unoptimized(conv_qdq(), feeds)
    path = save(conv_qdq())
    engine = TARGETS[target].build(path, TargetOptions(float_precision="f32"), tmp_path / "out")
    # one step of the output grid (scale 0.03): a value between two steps may be rounded either way
    assert np.abs(engine.run(feeds)[0] - expected).max() <= 0.03 + 1e-6


def test_openvino_settings_echo_what_was_asked_for(save, tmp_path):
    path, options = save(conv_float()), TargetOptions(float_precision="f32", threads=1)
    engine = TARGETS["openvino"].build(path, options, tmp_path / "out")
    asked = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY"}
    assert asked.items() <= engine.settings.items()
    assert [a.path.name for a in engine.artefacts] == ["model.xml", "model.bin"]
    assert all(a.path.is_file() for a in engine.artefacts)


def test_onnxruntime_settings_echo_what_was_asked_for(save, tmp_path):
    engine = TARGETS["onnxruntime"].build(save(conv_float()), TargetOptions(threads=1), tmp_path / "out")
    assert engine.settings["intra_op_num_threads"] == 1
    assert engine.settings["graph_optimization_level"] == "ORT_ENABLE_ALL"


@pytest.mark.parametrize("target", RUN)
def test_a_loaded_engine_gives_what_the_built_one_gives(save, feeds, tmp_path, target):
    options = TargetOptions(float_precision="f32")
    built = TARGETS[target].build(save(conv_qdq()), options, tmp_path / "out")
    loaded = TARGETS[target].load(built.artefacts[0].path, options)
    np.testing.assert_array_equal(loaded.run(feeds)[0], built.run(feeds)[0])


@pytest.mark.parametrize("target", RUN)
def test_a_fixed_batch_gives_the_same_numbers_and_takes_no_other_batch(save, feeds, tmp_path, target):
    path, options = save(conv_qdq()), TargetOptions(float_precision="f32", batch=2)
    varying = TARGETS[target].build(path, TargetOptions(float_precision="f32"), tmp_path / "varying")
    fixed = TARGETS[target].build(path, options, tmp_path / "fixed")
    np.testing.assert_array_equal(fixed.run(feeds)[0], varying.run(feeds)[0])
    assert precision_shares(fixed.layers(feeds, 2)) == {"int8": 1.0}
    with pytest.raises(CompressError, match="on these inputs"):
        fixed.run({"x": feeds["x"][:1]})


@pytest.mark.parametrize("target", RUN)
def test_inputs_are_named_when_they_are_wrong(save, tmp_path, target):
    engine = TARGETS[target].build(save(conv_float()), TargetOptions(), tmp_path / "out")
    with pytest.raises(CompressError, match=r"takes the inputs \['x'\], but was fed \['image'\]"):
        engine.run({"image": np.zeros((1, 8, 8, 8), np.float32)})
    with pytest.raises(CompressError, match="on these inputs"):
        engine.run({"x": np.zeros((1, 3, 8, 8), np.float32)})


@pytest.mark.parametrize("target", RUN)
def test_a_device_that_is_not_here_is_refused_with_the_reason(save, tmp_path, target):
    assert TARGETS[target].unavailable("NPU9")
    with pytest.raises(DeviceUnavailableError, match="NPU9"):
        TARGETS[target].build(save(conv_float()), TargetOptions(device="NPU9"), tmp_path / "out")


@pytest.mark.parametrize("target", RUN)
def test_an_operator_that_the_runtime_does_not_know_is_refused(save, tmp_path, target):
    path = save(model_of([helper.make_node("Fancy", ["x"], ["y"], "fancy", domain="no.such")], {}))
    with pytest.raises(CompressError, match=r"tiny\.onnx.*refuses the model"):
        TARGETS[target].build(path, TargetOptions(), tmp_path / "out")


@pytest.mark.parametrize(
    ("signed", "changes"),
    [
        pytest.param(conv_qdq(), 4, id="int8: a pair put in before the Relu, three written as uint8"),
        pytest.param(conv_qdq(np.uint8(9)), 1, id="uint8 with a zero point: a pair put in before the Relu"),
        pytest.param(clipped(), 4, id="int8 with a Clip in the place of the Relu"),
    ],
)
def test_the_graph_that_onnxruntime_fuses_gives_the_same_values(feeds, signed, changes):
    rewritten, count = fusable(signed)
    assert count == changes
    np.testing.assert_array_equal(unoptimized(rewritten, feeds), unoptimized(signed, feeds))


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(conv_float(), id="float"),
        pytest.param(conv_qdq(np.uint8(0)), id="a grid that starts at 0 does the work of the Relu itself"),
    ],
)
def test_graphs_that_fuse_as_they_are_stay_so(model):
    kept, count = fusable(model)
    assert count == 0 and kept == model


@pytest.mark.parametrize(
    ("signed", "end"),
    [
        pytest.param(conv_qdq(), 127 * 0.03, id="Relu"),
        pytest.param(clipped(0.0, 1.0), 33 * 0.03, id="a Clip that ends within the grid"),
        pytest.param(clipped(0.0, 6.0), 127 * 0.03, id="a Clip that ends beyond the grid"),
    ],
)
def test_what_is_never_negative_becomes_unsigned_with_the_same_values(feeds, signed, end):
    trimmed = onnx.ModelProto.FromString(signed.SerializeToString())
    assert trim_to_unsigned(trimmed) == 1
    graph = OnnxGraph(trimmed)
    zeros = {name: graph.value(node.input[2]) for name, node in graph.of_type("QuantizeLinear")}
    assert {name: (z.dtype, z.item()) for name, z in zeros.items()} == {
        "q_in": (np.int8, 0),
        "q_out": (np.uint8, 0),
    }
    beyond = {"x": 4 * feeds["x"]}
    wanted = unoptimized(signed, beyond)
    np.testing.assert_array_equal(unoptimized(trimmed, beyond), wanted)
    assert wanted.max() == pytest.approx(end)  # some values lie beyond what the grid or the Clip holds


def classified(pooled_scale=0.02, times="a weight"):
    """`conv_qdq` with a head: its output's mean, quantized at `pooled_scale`, times a weight or itself."""
    model = conv_qdq()
    arrays = {
        "s_p": np.float32(pooled_scale),
        "z_p": np.int8(0),
        "axes": np.array([2, 3], np.int64),
        "shape": np.array([-1, 8], np.int64),
        "q_head": np.array([[3, -2, 5, 1, 8, -9, 7, 2], [-127, 64, 9, -3, 4, 6, -5, 127]], np.int8),
        "s_head": np.float32(0.01),
    }
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), k) for k, v in arrays.items())
    second = ["p_flat"] if times == "itself" else ["d_head"]
    model.graph.node.extend(
        [
            helper.make_node("ReduceMean", ["y", "axes"], ["mean"], "mean", keepdims=0),
            helper.make_node("QuantizeLinear", ["mean", "s_p", "z_p"], ["q_p"], "q_pooled"),
            helper.make_node("DequantizeLinear", ["q_p", "s_p", "z_p"], ["d_p"], "d_pooled"),
            helper.make_node("Reshape", ["d_p", "shape"], ["p_flat"], "flat"),
            helper.make_node("DequantizeLinear", ["q_head", "s_head", "z_p"], ["d_head"], "d_head"),
            helper.make_node("Gemm", ["p_flat", *second], ["logits"], "head", transB=1),
        ]
    )
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, None))
    return model


def test_the_mean_of_what_is_never_negative_becomes_unsigned_with_the_same_logits(feeds):
    """0.001 * 127 lies below the means: the uint8 grid must end there too."""
    for scale in (0.02, 0.001):
        signed = classified(scale)
        trimmed = onnx.ModelProto.FromString(signed.SerializeToString())
        assert trim_to_unsigned(trimmed) == 2  # the output of the Relu, and its mean
        graph = OnnxGraph(trimmed)
        assert graph.value(graph.by_name["q_pooled"].input[2]) == np.uint8(0)
        np.testing.assert_array_equal(unoptimized(trimmed, feeds), unoptimized(signed, feeds))


def test_a_product_of_a_mean_with_itself_keeps_its_signed_grid():
    trimmed = classified(times="itself")
    assert trim_to_unsigned(trimmed) == 1
    graph = OnnxGraph(trimmed)
    assert graph.value(graph.by_name["q_pooled"].input[2]) == np.int8(0)
    assert "q_p_trimmed" not in graph.producer


def read_twice():
    model = conv_qdq()
    model.graph.output.append(helper.make_tensor_value_info("r", onnx.TensorProto.FLOAT, None))
    return model


def older():
    model = conv_qdq()
    model.opset_import[0].version = 10  # in which the bounds of Clip are attributes
    return model


def multiplied():
    model = conv_qdq()
    model.graph.node.append(helper.make_node("MatMul", ["y", "y"], ["p"], "product"))
    model.graph.output[0].name = "p"
    return model


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(conv_qdq(np.uint8(9)), id="uint8"),
        pytest.param(clipped(-0.1, 1.0), id="a Clip that begins below 0"),
        pytest.param(read_twice(), id="the Relu is an output too"),
        pytest.param(multiplied(), id="a MatMul reads it"),
        pytest.param(older(), id="opset 10"),
    ],
)
def test_what_must_not_be_trimmed_stays(model):
    kept = onnx.ModelProto.FromString(model.SerializeToString())
    assert trim_to_unsigned(kept) == 0 and kept == model


def test_every_multiply_accumulate_is_in_exactly_one_layer_and_none_is_guessed():
    """What nothing leads to is "unknown"; a region's "int8" does not cover a float product in it."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"], "lost"),
        helper.make_node("Softmax", ["m"], ["p"], "softmax"),
        helper.make_node("MatMul", ["p", "w"], ["y"], "inner"),
    ]
    graph = OnnxGraph(model_of(nodes, {"w": np.zeros((4, 4), np.float32)}, shape=("N", 4)))
    region = Executed("region", "Subgraph", "int8", 0.1, ("inner",), "many")
    separate = Executed("softmax", "Softmax", "f32", 0.1, ("softmax",), "none")
    layers = attribute(graph, [region, separate])
    assert {(x.name, x.precision, x.macs) for x in layers if x.macs} == {
        ("lost", "unknown", 16),
        ("inner (in region)", "unknown", 16),
    }
    assert precision_shares(layers) == {"unknown": 1.0}


def test_a_product_that_took_the_name_of_its_bias_is_found():
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"], "product"),
        helper.make_node("Add", ["m", "b"], ["y"], "bias"),
    ]
    arrays = {"w": np.zeros((4, 4), np.float32), "b": np.zeros(4, np.float32)}
    graph = OnnxGraph(model_of(nodes, arrays, shape=("N", 4)))
    (layer,) = attribute(graph, [Executed("fc", "FullyConnected", "f32", None, ("bias/Fused",), "one")])
    assert (layer.macs, layer.onnx_nodes) == (16, ("product", "bias"))


@needs_tensorrt
@pytest.mark.skipif(bool(tensorrt.devices()), reason="there is a GPU here")
def test_tensorrt_builds_for_named_gpus_without_one_and_the_same_bytes_each_time(save, tmp_path):
    options = TargetOptions(compute_capabilities=("SM86", "8.9"))
    path = save(conv_qdq())
    built = [TARGETS["tensorrt"].build(path, options, tmp_path / folder) for folder in ("a", "b")]
    assert built[0].reason == "no NVIDIA GPU here"
    assert [a.path.name for a in built[0].artefacts] == ["model.sm86.engine", "model.sm89.engine"]
    for first, second in zip(built[0].artefacts, built[1].artefacts, strict=True):
        assert first.path.read_bytes() == second.path.read_bytes()


@needs_tensorrt
@pytest.mark.parametrize("capability", ["SM87", "sm90"])
def test_a_gpu_that_cannot_be_built_for_ahead_of_time_is_named(save, tmp_path, capability):
    options = TargetOptions(compute_capabilities=(capability,))
    with pytest.raises(CompressError, match=f"{capability}.*SM86.*on the device itself with full TensorRT"):
        TARGETS["tensorrt"].build(save(conv_qdq()), options, tmp_path / "out")


@needs_tensorrt
@pytest.mark.parametrize(
    ("model", "node", "fix"),
    [
        pytest.param(conv_qdq(np.int8(3)), "q_in", "symmetric int8 grid", id="zero point"),
        pytest.param(conv_qdq(bias="int32"), "dq_bias", "bias in float32", id="int32 bias"),
        pytest.param(conv_qdq(weight="int8-clip"), "clip", "int8 initializer", id="Clip behind int8"),
    ],
)
def test_what_tensorrt_refuses_names_the_node_and_the_fix(save, tmp_path, model, node, fix):
    with pytest.raises(CompressError, match=rf"node {node}: .*{fix}"):
        TARGETS["tensorrt"].build(
            save(model), TargetOptions(compute_capabilities=("SM86",)), tmp_path / "out"
        )


def test_what_tensorrts_inspector_tells_is_attributed_to_onnx_nodes():
    """The layout of `IEngineInspector` at detailed verbosity, cut down to what is read."""
    told = {
        "Layers": [
            {
                "Name": "in",
                "LayerType": "Reformat",
                "Metadata": "",
                "Inputs": [{"Format/Datatype": "FP32 Row"}],
            },
            {
                "Name": "conv + relu",
                "LayerType": "CaskConvolution",
                "Inputs": [{"Name": "xq", "Format/Datatype": "Int8 NC/32HW32 format"}],
                "Metadata": "[ONNX Layer: conv]\x1e[ONNX Layer: relu]",
            },
        ]
    }
    layers = attribute(OnnxGraph(conv_qdq()), executed_layers(told, {"conv + relu": 0.25}))
    assert [(x.precision, x.ms, x.macs) for x in layers] == [("f32", None, 0), ("int8", 0.25, CONV_MACS)]
    assert layers[1].onnx_nodes == ("conv", "relu")


def test_the_doctor_has_a_row_for_every_target_and_a_reason_for_what_is_missing():
    rows = {row.runtime: row for row in doctor()}
    assert list(rows) == list(TARGETS)
    assert rows["openvino"].unavailable is None and "CPU" in rows["openvino"].devices
    assert rows["tensorrt"].devices or rows["tensorrt"].unavailable
    json.dumps([vars(row) for row in rows.values()])


def test_a_damaged_model_is_refused_in_words(tmp_path):
    path = tmp_path / "damaged.onnx"
    path.write_bytes(conv_qdq().SerializeToString()[:-200])
    for target in RUN:
        with pytest.raises(CompressError, match=r"damaged\.onnx"):
            TARGETS[target].build(path, TargetOptions(), tmp_path / "out")


def test_models_with_several_outputs_keep_their_order(tmp_path, feeds):
    nodes = [helper.make_node("Relu", ["x"], ["b"], "relu"), helper.make_node("Neg", ["x"], ["a"], "neg")]
    onnx.save(model_of(nodes, {}, outputs=("b", "a")), str(tmp_path / "two.onnx"))
    for target in RUN:
        options = TargetOptions(float_precision="f32")
        first, second = TARGETS[target].build(tmp_path / "two.onnx", options, tmp_path / target).run(feeds)
        np.testing.assert_array_equal(first, np.maximum(feeds["x"], 0))
        np.testing.assert_array_equal(second, -feeds["x"])


@pytest.mark.parametrize("relus", [0, 1, 2])
def test_openvino_concatenates_signed_quantized_branches_as_onnxruntime_does(
    tmp_path: Path, relus: int
) -> None:
    path = concatenating_model(tmp_path, relus)
    x = np.random.default_rng(0).standard_normal((4, 3, 16, 16), dtype=np.float32)
    wanted = TARGETS["onnxruntime"].build(path, TargetOptions(), tmp_path / "reference").run({"x": x})[0]
    got = (
        TARGETS["openvino"]
        .build(path, TargetOptions(float_precision="f32"), tmp_path / "ir")
        .run({"x": x})[0]
    )
    # One quantization step of the output's inputs is 1e-2; rounding of ties may differ by one here and there.
    assert np.abs(wanted - got).max() < 0.05 * np.abs(wanted).max()


def concatenating_model(folder: Path, relus: int = 0) -> Path:
    """Two INT8 convolutions of one tensor, concatenated, quantized and read by a third one.

    relus: how many of the two have a Relu, quantized by itself.
    """
    from onnx import TensorProto, helper, numpy_helper

    draw = np.random.default_rng(1)
    constants = {"scale": np.float32(0.02), "zero": np.int8(0)}
    nodes = []

    def quantized(name: str) -> str:
        grid = ["scale", "zero"]
        nodes.append(helper.make_node("QuantizeLinear", [name, *grid], [f"{name}_q"], f"{name}_q"))
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}_q", *grid], [f"{name}_dq"], f"{name}_dq"))
        return f"{name}_dq"

    def conv(name: str, source: str, channels: int, inputs: int) -> str:
        constants[f"{name}_w"] = draw.integers(-LIMIT, LIMIT + 1, (channels, inputs, 1, 1)).astype(np.int8)
        constants[f"{name}_s"] = np.full(channels, 0.005, np.float32)
        nodes.append(
            helper.make_node(
                "DequantizeLinear", [f"{name}_w", f"{name}_s"], [f"{name}_dq"], f"{name}_dq", axis=0
            )
        )
        nodes.append(helper.make_node("Conv", [source, f"{name}_dq"], [name], name))
        return name

    source = quantized("x")
    branches = [conv("one", source, 8, 3), conv("two", source, 8, 3)]
    for index, branch in enumerate(branches[:relus]):
        nodes.append(helper.make_node("Relu", [branch], [f"{branch}_relu"], f"{branch}_relu"))
        branches[index] = quantized(f"{branch}_relu")
    nodes.append(helper.make_node("Concat", branches, ["both"], "both", axis=1))
    conv("y", quantized("both"), 4, 16)
    graph = helper.make_graph(
        nodes,
        "concat",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4, 16, 16])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    path = folder / "concat.onnx"
    path.write_bytes(
        helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9
        ).SerializeToString()
    )
    return path


def test_two_builds_of_one_model_in_one_process_give_the_same_bytes(tmp_path: Path) -> None:
    path = concatenating_model(tmp_path)
    files = [
        [
            artefact.path.read_bytes()
            for artefact in TARGETS["openvino"].build(path, TargetOptions(), tmp_path / name).artefacts
        ]
        for name in ("first", "second")
    ]
    assert files[0] == files[1]


@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
def test_an_inference_without_copies_is_the_same_inference(name, save, feeds, tmp_path):
    """Inputs are in place before it is timed; what it computes is what `run` gives."""
    engine = TARGETS[name].build(save(conv_float()), TargetOptions(float_precision="f32"), tmp_path)
    expected = engine.run(feeds)
    prepared = engine.prepared(feeds)
    for _ in range(3):
        prepared()
    assert np.array_equal(engine.run(feeds)[0], expected[0])
    changed = {"x": feeds["x"].copy()}
    prepared = engine.prepared(changed)
    changed["x"][:] = 0  # it reads these arrays, not a copy of them
    prepared()


def test_what_openvino_makes_of_weights_once_is_no_layer(save, tmp_path):
    """As a bias brought to BF16, on CPUs that compute in it: the one time was told as if it were of each inference."""
    rng = np.random.default_rng(0)
    arrays = {
        "w": rng.standard_normal((32, 8, 3, 3)),
        "v": rng.standard_normal((16, 32, 1, 1)),
        "b": np.ones(32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], "first", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"], "relu"),
        helper.make_node("Conv", ["r", "v"], ["y"], "second"),
    ]
    floats = {name: values.astype(np.float32) for name, values in arrays.items()}
    path = save(model_of(nodes, floats, shape=("N", 8, 32, 32)))
    engine = TARGETS["openvino"].build(path, TargetOptions(batch=1), tmp_path / "out")
    layers = engine.layers({"x": np.ones((1, 8, 32, 32), np.float32)}, 3)
    assert {"first", "relu", "second"} <= {node for layer in layers for node in layer.onnx_nodes}
    assert not [layer.name for layer in layers if "reshape" in layer.name.lower()]


def test_openvino_reads_inputs_where_they_are(save, feeds, tmp_path):
    engine = TARGETS["openvino"].build(save(conv_float()), TargetOptions(float_precision="f32"), tmp_path)
    mine = {"x": feeds["x"].copy()}
    prepared = engine.prepared(mine)
    assert np.asarray(next(iter(prepared().values()))).any()
    mine["x"][:] = 0
    assert not np.asarray(next(iter(prepared().values()))).any()


@pytest.mark.parametrize("group", [1, 4])
def test_a_convolution_and_a_transposed_one_of_equal_weights_keep_their_own(group, tmp_path):
    """OpenVINO's files store equal bytes once, and its engine then prepares them for one of the two only."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((4, 4 // group, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["h"], "conv", pads=[1, 1, 1, 1], group=group),
        helper.make_node("ConvTranspose", ["h", "v"], ["y"], "up", pads=[1, 1, 1, 1], group=group),
    ]
    model = model_of(nodes, {"w": weight, "v": weight.copy()}, shape=("N", 4, 8, 8))
    feeds = {"x": rng.standard_normal((2, 4, 8, 8)).astype(np.float32)}
    onnx.save(model, tmp_path / "m.onnx")
    engine = TARGETS["openvino"].build(
        tmp_path / "m.onnx", TargetOptions(float_precision="f32"), tmp_path / "ir"
    )
    assert np.allclose(engine.run(feeds)[0], unoptimized(model, feeds), atol=1e-4)
