"""`profile`: what is fed, what is measured, and what a device that did not run says instead."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from edgepress.errors import CompressError
from edgepress.pipeline.devices.feeds import batch_of, random_feeds
from edgepress.pipeline.devices.file import changed, find_devices, runtime_and_device
from edgepress.pipeline.devices.sections import DeviceSection
from edgepress.pipeline.onnx_files.file import read_graph
from edgepress.pipeline.profile.record import Profile, Profiles
from edgepress.pipeline.profile.run import profile
from edgepress.pipeline.profile.timing import ProfilePlan
from edgepress.pipeline.record_file import write_record
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


def profiled(path: Path, labels: list[str], folder: Path, plan: ProfilePlan = QUICK) -> Profile:
    return profile([path], find_devices(labels, None), folder, plan).profiles[0]


HERE = [pytest.param(0, id="openvino:CPU"), pytest.param(1, id="onnxruntime")]
"""Where the rows of the devices that run are among those of `measured`."""


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Profile:
    folder = tmp_path_factory.mktemp("profile")
    labels = ["openvino:CPU", "onnxruntime", "openvino:NPX", "onnxruntime"]
    return profiled(saved(gemm(), folder), labels, folder / "out")


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


@pytest.mark.parametrize("index", HERE)
def test_latency_keeps_its_samples_and_says_which_percentiles_they_cannot_support(
    index: int, measured: Profile
) -> None:
    latency = measured.devices[index].engine.latency_ms
    assert [len(launch) for launch in latency.samples_ms] == [11, 11]
    assert (latency.n, latency.launches, latency.p90, latency.p99) == (22, 2, None, None)
    assert "n = 22, p90 needs 64" in latency.note
    assert 0 < latency.ci95[0] <= latency.ci95[1]
    assert latency.load_ms > 0 and latency.first_inference_ms > 0


@pytest.mark.parametrize("index", HERE)
def test_layers_shares_and_settings(index: int, measured: Profile) -> None:
    engine = measured.devices[index].engine
    assert sum(layer.macs for layer in engine.layers) == GEMM_MACS
    assert sum(engine.precision.values()) == pytest.approx(1.0)
    assert "int8" not in engine.precision
    assert engine.settings and engine.engine_bytes > 0


def test_the_record_survives_its_file(measured: Profile, tmp_path: Path) -> None:
    path = write_record(tmp_path / "profile.json", measured)
    assert Profile.model_validate_json(path.read_text()) == measured
    assert measured.inputs == {"x": [1, 16]}
    assert "the inputs are random" in measured.note


def test_f32_reaches_the_runtime(tmp_path: Path) -> None:
    plan = ProfilePlan(pairs=2, iterations=11, warmup_s=0.1, batch=3)
    section = changed(DeviceSection(runtime="openvino", device="CPU"), float_precision="f32", threads=None)
    (found,) = profile([saved(gemm(), tmp_path)], {"here": section}, tmp_path / "out", plan).profiles
    engine = found.devices[0].engine
    assert engine.settings["INFERENCE_PRECISION_HINT"] == "f32"
    assert engine.precision == {"f32": 1.0}
    assert found.inputs == {"x": [3, 16]}


def test_a_model_that_the_runtimes_refuse_is_a_row_with_their_words(tmp_path: Path) -> None:
    path = saved(gemm(op_type="NoSuchOperator"), tmp_path)
    found = profiled(path, ["openvino:CPU", "onnxruntime"], tmp_path / "out")
    assert [d.status for d in found.devices] == ["failed", "failed"]
    assert all("NoSuchOperator" in d.reason for d in found.devices)


@pytest.mark.skipif(bool(TARGETS["tensorrt"].can_build()), reason="no TensorRT that builds here")
@pytest.mark.skipif(not TARGETS["tensorrt"].unavailable(""), reason="a GPU is here: the engine would run")
def test_built_ahead_of_time_is_not_run(tmp_path: Path) -> None:
    (device,) = profiled(saved(gemm(), tmp_path), ["tensorrt"], tmp_path / "out").devices
    assert device.status == "built"
    assert "no NVIDIA GPU here" in device.reason
    assert device.engine.latency_ms is None
    assert device.engine.engine_bytes > 0


# Several models, modes and long loads


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Profiles:
    """Two files of one name, on the fake device: 5 % noise-free, the second with three times the nodes."""
    folder = tmp_path_factory.mktemp("compare")
    for name in ("a", "b"):
        (folder / name).mkdir()
    first = saved(gemm(), folder / "a")
    slower = gemm()
    for i in range(2):
        slower.graph.node.append(helper.make_node("Relu", ["y"], [f"z{i}"], f"relu{i}"))
    second = saved(slower, folder / "b")
    quiet = {"launch_sd": 0.0, "iteration_sd": 0.0}
    section = DeviceSection.model_validate({"runtime": "fake", "noise": quiet})
    return profile([first, second], {"sim": section}, folder / "out", QUICK)


def test_models_of_one_file_name_get_names_of_their_own(compared: Profiles) -> None:
    assert compared.names == ["m", "b-m"]


def test_each_model_is_compared_with_the_first_one(compared: Profiles) -> None:
    """Times on the fake device: 16 x 8 MACs at 50e6 a ms, and 2 us for each of 1 and 3 nodes."""
    (found,) = compared.ratios
    base = GEMM_MACS / 50e6
    assert (found.device, found.first, found.other, found.pairs) == ("sim", "m", "b-m", 2)
    assert found.ratio == pytest.approx((base + 0.002) / (base + 0.006), rel=1e-3)  # samples are whole ns


def test_several_models_are_written_in_folders_of_their_names(compared: Profiles, tmp_path: Path) -> None:
    compared.write(tmp_path)
    assert (
        Profile.model_validate_json((tmp_path / "b-m" / "profile.json").read_text()) == compared.profiles[1]
    )
    assert json.loads((tmp_path / "profiles.json").read_text())["names"] == ["m", "b-m"]


def test_models_of_other_fixed_batches_are_not_compared(tmp_path: Path) -> None:
    paths = []
    for batch in (1, 4):
        (tmp_path / str(batch)).mkdir()
        paths.append(saved(gemm(batch), tmp_path / str(batch)))
    with pytest.raises(CompressError, match="the models take other batches"):
        profile(paths, find_devices(["fake"], None), tmp_path / "out", QUICK)


@pytest.mark.parametrize("label", ["openvino:CPU", "onnxruntime"])
def test_throughput_keeps_several_inferences_in_flight(label: str, tmp_path: Path) -> None:
    section = changed(find_devices([label], None)[label], mode="throughput", streams=2)
    (found,) = profile([saved(gemm(), tmp_path)], {label: section}, tmp_path / "out", QUICK).profiles
    (device,) = found.devices
    assert device.options["mode"] == "throughput"
    assert device.resources.throughput_per_s == pytest.approx(1000 / device.engine.latency_ms.p50)
    hint = {"openvino:CPU": ("PERFORMANCE_HINT", "THROUGHPUT"), "onnxruntime": ("streams", "2")}[label]
    assert str(device.engine.settings[hint[0]]) == hint[1]


@pytest.mark.parametrize("index", HERE)
def test_memory_states_and_digests_are_told_and_energy_only_with_a_counter(
    index: int, measured: Profile
) -> None:
    device = measured.devices[index]
    assert 0 < device.resources.engine_memory_bytes < device.resources.peak_memory_bytes
    assert [state["load_average"] is not None for state in device.states] == [True, True]
    assert len(device.engine_sha256) == 64
    assert device.resources.joules is None or device.resources.joules > 0


def test_sustained_load_is_one_long_launch(tmp_path: Path) -> None:
    plan = ProfilePlan(pairs=2, iterations=11, warmup_s=0.1, sustain_s=1.2)
    (found,) = profile(
        [saved(gemm(), tmp_path)], find_devices(["onnxruntime"], None), tmp_path / "o", plan
    ).profiles
    long = found.devices[0].sustained
    assert long.seconds > 1 and long.first_ms > 0 and len(long.windows_ms) >= 1


def test_a_device_that_cannot_be_reached_is_a_row(tmp_path: Path) -> None:
    ssh = {"host": "nowhere.invalid", "config": "none", "connect_timeout_s": 2}
    sections = {
        "far": DeviceSection.model_validate({"runtime": "onnxruntime", "ssh": ssh}),
        **find_devices(["fake"], None),
    }
    (found,) = profile([saved(gemm(), tmp_path)], sections, tmp_path / "out", QUICK).profiles
    assert [(d.label, d.status) for d in found.devices] == [("far", "unavailable"), ("fake", "run")]
    assert "nowhere.invalid" in found.devices[0].reason


def test_a_device_that_is_lost_keeps_the_rows_of_the_others(tmp_path: Path) -> None:
    sections = {
        "gone": DeviceSection.model_validate({"runtime": "fake", "noise": {"disconnect_rate": 0.99}}),
        **find_devices(["fake"], None),
    }
    (found,) = profile([saved(gemm(), tmp_path)], sections, tmp_path / "out", QUICK).profiles
    assert [(d.label, d.status) for d in found.devices] == [("gone", "unavailable"), ("fake", "run")]
    assert found.devices[0].reason == "gone: the connection was lost"


def test_equal_engines_are_told_apart_by_no_more_than_their_interval(tmp_path: Path) -> None:
    """Also on a device that drifts by 5 % from launch to launch and throttles now and then, which it tells."""
    noise = {"launch_sd": 0.02, "drift_sd": 0.05, "throttle_rate": 0.1, "throttle_told": True}
    paths = []
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        paths.append(saved(gemm(), tmp_path / name))
    section = DeviceSection.model_validate({"runtime": "fake", "noise": noise, "seed": 1})
    found = profile(paths, {"sim": section}, tmp_path / "out", ProfilePlan(pairs=12, iterations=30))
    assert [(r.first, r.other, r.pairs) for r in found.ratios] == [("m", "b-m", 12), ("m", "c-m", 12)]
    assert all(r.ci95[0] < 1 < r.ci95[1] for r in found.ratios)


def test_the_engines_of_one_device_take_turns(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    paths = [saved(gemm(), tmp_path), saved(gemm(), tmp_path / "b")]
    found = profile(paths, find_devices(["onnxruntime"], None), tmp_path / "out", QUICK)
    assert [ratio.pairs for ratio in found.ratios] == [2]
    for name in found.names:
        latency = found.engine(name, "onnxruntime").latency_ms
        assert [len(launch) for launch in latency.samples_ms] == [20, 20]  # whole turns of ten


def test_a_device_that_keeps_throttling_is_a_row_that_says_so(tmp_path: Path) -> None:
    hot = {"runtime": "fake", "noise": {"throttle_rate": 1.0, "throttle_told": True}}
    sections = {"hot": DeviceSection.model_validate(hot), **find_devices(["fake"], None)}
    (found,) = profile([saved(gemm(), tmp_path)], sections, tmp_path / "out", QUICK).profiles
    assert [(d.label, d.status) for d in found.devices] == [("hot", "failed"), ("fake", "run")]
    assert found.devices[0].reason.startswith(
        "hot: unfit to be measured on, only 0 of 2 rounds of launches counted, as the CPU throttled 1 times;"
    )


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


@pytest.mark.parametrize("kind", [TensorProto.INT64, TensorProto.UINT8, TensorProto.BOOL])
def test_inputs_that_are_no_floats_are_zeros_and_ones(kind: int) -> None:
    assert set(np.unique(random_feeds(gemm(kind=kind), 2, seed=0)["x"]).tolist()) == {0, 1}


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
