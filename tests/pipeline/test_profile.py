"""`profile`: what is fed, what is measured, and what a device that did not run says instead."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from edgepress.errors import CompressError
from edgepress.pipeline.profile import Profile, ProfilePlan, profile, read_graph, runtime_and_device
from edgepress.pipeline.random_inputs import batch_of, random_feeds
from edgepress.targets import TARGETS
from onnx import TensorProto, helper, numpy_helper

QUICK = ProfilePlan(pairs=2, iterations=11, warmup_s=0.1)
GEMM_MACS = 16 * 8


def gemm(batch: int | str = "N", kind: int = TensorProto.FLOAT, op_type: str = "Gemm") -> onnx.ModelProto:
    """x (batch, 16), cast to float where it is none, times 16 x 8."""
    source = "x" if kind == TensorProto.FLOAT else "f"
    nodes = [helper.make_node(op_type, [source, "w"], ["y"], "gemm")]
    if source == "f":
        nodes.insert(0, helper.make_node("Cast", ["x"], ["f"], "cast", to=TensorProto.FLOAT))
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", kind, [batch, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 8])],
        [numpy_helper.from_array(np.ones((16, 8), np.float32), "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


def saved(model: onnx.ModelProto, folder: Path) -> Path:
    onnx.save(model, str(folder / "m.onnx"))
    return folder / "m.onnx"


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Profile:
    folder = tmp_path_factory.mktemp("profile")
    labels = ["openvino:CPU", "onnxruntime", "openvino:NPX", "onnxruntime"]
    return profile(saved(gemm(), folder), labels, folder / "out", QUICK)


def test_one_row_a_device_in_the_order_asked_for(measured: Profile) -> None:
    found = [(d.runtime, d.device, d.status, d.engine is not None) for d in measured.devices]
    assert found == [
        ("openvino", "CPU", "run", True),
        ("onnxruntime", "", "run", True),
        ("openvino", "NPX", "unavailable", False),
    ]
    assert "OpenVINO has no device 'NPX' here" in measured.devices[2].reason
    assert [d.version for d in measured.devices[:2]] == [
        TARGETS["openvino"].version(),
        TARGETS["onnxruntime"].version(),
    ]


def test_latency_keeps_its_samples_and_says_which_percentiles_they_cannot_support(measured: Profile) -> None:
    for device in measured.devices[:2]:
        latency = device.engine.latency_ms
        assert [len(launch) for launch in latency.samples_ms] == [11, 11]
        assert (latency.n, latency.launches, latency.p90, latency.p99) == (22, 2, None, None)
        assert "n = 22, p90 needs 64" in latency.note
        assert 0 < latency.ci95[0] <= latency.ci95[1]
        assert latency.load_ms > 0 and latency.first_inference_ms > 0


def test_layers_shares_and_settings(measured: Profile) -> None:
    for device in measured.devices[:2]:
        engine = device.engine
        assert sum(layer.macs for layer in engine.layers) == GEMM_MACS
        assert sum(engine.precision.values()) == pytest.approx(1.0)
        assert "int8" not in engine.precision
        assert engine.settings and engine.engine_bytes > 0


def test_the_record_survives_its_file(measured: Profile, tmp_path: Path) -> None:
    path = measured.write(tmp_path)
    assert Profile.model_validate_json(path.read_text()) == measured
    assert measured.inputs == {"x": [1, 16]}
    assert "the inputs are random" in measured.note


def test_f32_reaches_the_runtime(tmp_path: Path) -> None:
    plan = ProfilePlan(pairs=2, iterations=11, warmup_s=0.1, float_precision="f32", batch=3)
    found = profile(saved(gemm(), tmp_path), ["openvino:CPU"], tmp_path / "out", plan)
    engine = found.devices[0].engine
    assert engine.settings["INFERENCE_PRECISION_HINT"] == "f32"
    assert engine.precision == {"f32": 1.0}
    assert found.inputs == {"x": [3, 16]}


def test_a_model_that_the_runtimes_refuse_is_a_row_with_their_words(tmp_path: Path) -> None:
    path = saved(gemm(op_type="NoSuchOperator"), tmp_path)
    found = profile(path, ["openvino:CPU", "onnxruntime"], tmp_path / "out", QUICK)
    assert [d.status for d in found.devices] == ["failed", "failed"]
    assert all("NoSuchOperator" in d.reason for d in found.devices)


@pytest.mark.skipif(bool(TARGETS["tensorrt"].can_build()), reason="no TensorRT that builds here")
@pytest.mark.skipif(not TARGETS["tensorrt"].unavailable(""), reason="a GPU is here: the engine would run")
def test_built_ahead_of_time_is_not_run(tmp_path: Path) -> None:
    (device,) = profile(saved(gemm(), tmp_path), ["tensorrt"], tmp_path / "out", QUICK).devices
    assert device.status == "built"
    assert "no NVIDIA GPU here" in device.reason
    assert device.engine.latency_ms is None
    assert device.engine.engine_bytes > 0


# Inputs


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        (TensorProto.FLOAT, np.float32),
        (TensorProto.FLOAT16, np.float16),
        (TensorProto.INT64, np.int64),
        (TensorProto.UINT8, np.uint8),
        (TensorProto.BOOL, np.bool_),
    ],
)
def test_inputs_have_the_graphs_type_and_shape(kind: int, dtype: type) -> None:
    array = random_feeds(gemm(kind=kind), 2, seed=0)["x"]
    assert (array.dtype, array.shape) == (dtype, (2, 16))
    assert array.std() > 0
    if array.dtype.kind != "f":
        assert set(np.unique(array).tolist()) == {0, 1}


def test_inputs_are_those_of_the_seed() -> None:
    first, again, other = (random_feeds(gemm(), 1, seed)["x"] for seed in (7, 7, 8))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_weights_listed_as_inputs_are_not_fed() -> None:
    model = gemm()
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [16, 8]))
    assert list(random_feeds(model, 1, seed=0)) == ["x"]


def test_text_inputs_are_refused() -> None:
    with pytest.raises(
        CompressError, match="input 'x': is of type string; only floats, integers and booleans"
    ):
        random_feeds(gemm(kind=TensorProto.STRING), 1, seed=0)


def test_only_the_batch_may_vary() -> None:
    model = gemm()
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "width"
    with pytest.raises(CompressError, match=r"input 'x': axis 1 \(width\) has no fixed size"):
        random_feeds(model, 1, seed=0)


@pytest.mark.parametrize(
    ("own", "wanted", "expected"),
    [("N", 0, (1, True)), ("N", 8, (8, True)), (4, 0, (4, False)), (4, 4, (4, False))],
    ids=["varies: 1", "varies: as asked", "fixed: its own", "fixed: the same asked"],
)
def test_batch(own: int | str, wanted: int, expected: tuple[int, bool]) -> None:
    assert batch_of(gemm(own), wanted) == expected


def test_a_fixed_batch_is_not_changed() -> None:
    with pytest.raises(CompressError, match="batch 2: the model is exported with the fixed batch 4"):
        batch_of(gemm(4), 2)


# Names and files


def test_labels() -> None:
    assert runtime_and_device("openvino:CPU") == ("openvino", "CPU")
    assert runtime_and_device("onnxruntime") == ("onnxruntime", "")
    with pytest.raises(CompressError, match="unknown target 'onnx'"):
        runtime_and_device("onnx")


def test_what_is_no_onnx_file(tmp_path: Path) -> None:
    empty = tmp_path / "empty.onnx"
    empty.touch()
    with pytest.raises(CompressError, match=r"empty\.onnx is empty"):
        read_graph(empty)
    hollow = saved(helper.make_model(helper.make_graph([], "none", [], [])), tmp_path)
    with pytest.raises(CompressError, match="holds no ONNX graph"):
        read_graph(hollow)
