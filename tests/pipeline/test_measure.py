"""Targets that do not end in numbers: refused, built only, lost or not here, each with its reason and what is left."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ahead_runtime
import onnx
import pytest
import torch
from edgepress.errors import CompressError
from edgepress.model import Model
from edgepress.pipeline import measure
from edgepress.pipeline.between import Between
from edgepress.pipeline.engine_proofs import Candidate
from edgepress.pipeline.measure import Measured, measure_target
from edgepress.pipeline.recipe.sections import MeasureSection, TargetSection
from edgepress.pipeline.run_record import plain_settings
from edgepress.targets import TARGETS, tensorrt
from edgepress.targets.measuring.device import Device, Frozen
from edgepress.targets.measuring.latency import LaunchSamples
from edgepress.writing import NotWrittenError
from onnx import helper
from quantization_nets import context_of, samples
from tiny_onnx import model_of
from torch import nn

PLAN = MeasureSection(pairs=2, iterations=11, warmup_s=0)
SAMPLE = (8, 8, 8)


def classifier(operator: str = "Relu", domain: str = "") -> onnx.ModelProto:
    """x (N, 8, 8, 8) -> an operator -> the means of the 8 channels as scores."""
    nodes = [
        helper.make_node(operator, ["x"], ["r"], "first", domain=domain),
        helper.make_node("GlobalAveragePool", ["r"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["y"], "flatten"),
    ]
    return model_of(nodes, {})


class Classifier(nn.Module):
    """The same in PyTorch."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.relu().mean((2, 3))


REFUSED = classifier("Fancy", "no.such")


@pytest.fixture
def measured(tmp_path: Path) -> Callable[..., Measured]:
    """Measures two graphs, by default good ones, on a target; with a name it is a device of devices.yaml."""

    def measure(
        compressed: onnx.ModelProto | None = None,
        float_model: onnx.ModelProto | None = None,
        names: tuple[str, ...] = ("x",),
        plan: MeasureSection = PLAN,
        dynamic_batch: bool = True,
        between: Sequence[Between] = (),
        **target: Any,
    ) -> Measured:
        paths = (tmp_path / "float.onnx", tmp_path / "model.onnx")
        for path, graph in zip(paths, (float_model, compressed), strict=True):
            onnx.save(graph or classifier(), str(path))
        part = samples(8, *SAMPLE, classes=8)
        model = Model(Classifier(), (torch.zeros(1, *SAMPLE),), names, ("y",), dynamic_batch=dynamic_batch)
        outputs = [model.run(*inputs) for inputs, _ in part.batches(16)]
        section = TargetSection.model_validate(target)
        candidate = Candidate(*paths, model, False, outputs, outputs)
        return measure_target(section, candidate, context_of(part), plan, tmp_path / "engines", between)

    return measure


def between_of(path: Path, step: int, graph: onnx.ModelProto) -> Between:
    onnx.save(graph, str(path))
    return Between(step, "key", "gates", Model(Classifier(), (torch.zeros(1, *SAMPLE),)), path, {})


def test_a_model_between_passes_that_is_refused_costs_the_others_nothing(
    measured: Callable[..., Measured], tmp_path: Path
) -> None:
    models = [
        between_of(tmp_path / "1.onnx", 1, classifier("Fancy", "no.such")),
        between_of(tmp_path / "2.onnx", 2, classifier("Abs")),
    ]
    record = measured(runtime="onnxruntime", between=models).record
    assert record.status == "run" and record.compressed is not None
    refused, timed = record.between
    assert (refused.step, refused.latency_ms, timed.step, timed.reason) == (1, None, 2, "")
    assert refused.reason.startswith(f"{tmp_path / '1.onnx'}: onnxruntime ") and "no.such" in refused.reason
    assert timed.latency_ms is not None and timed.latency_ms.launches == PLAN.pairs


def test_models_between_passes_that_cannot_be_timed_beside_the_others_cost_these_nothing(
    measured: Callable[..., Measured], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All engines are held at once while they are timed, and each may then hold less memory."""
    timed = measure.measure_rounds

    def at_most_two(device: Device, engines: Mapping[str, Frozen], *rest: Any) -> list[LaunchSamples]:
        if len(engines) > 2:
            raise CompressError("the engine needs more than 300 MB")
        return timed(device, engines, *rest)

    monkeypatch.setattr(measure, "measure_rounds", at_most_two)
    found = measured(runtime="onnxruntime", between=[between_of(tmp_path / "1.onnx", 1, classifier())])
    record = found.record
    assert not found.lasting  # with a limit of one's own it may go
    assert (
        record.status == "run" and record.compressed is not None and record.compressed.latency_ms is not None
    )
    [left] = record.between
    assert (left.latency_ms, left.reason) == (
        None,
        "timed beside the others: the engine needs more than 300 MB",
    )


def test_a_model_between_passes_that_cannot_be_written_is_no_refusal_of_the_device(
    measured: Callable[..., Measured], tmp_path: Path
) -> None:
    (tmp_path / "taken").write_text("a file, and no folder")
    model = replace(between_of(tmp_path / "1.onnx", 1, classifier()), path=tmp_path / "taken" / "1.onnx")
    with pytest.raises(NotWrittenError, match="taken"):
        measured(runtime="onnxruntime", between=[model])


WAYS = [pytest.param("", id="a target"), pytest.param("lab", id="a device")]
RUNTIMES = [pytest.param("onnxruntime", "onnxruntime"), pytest.param("openvino", "OpenVINO")]


# Failed


@pytest.mark.parametrize("name", WAYS)
@pytest.mark.parametrize(("runtime", "told"), RUNTIMES)
def test_a_graph_that_the_runtime_refuses_is_a_failure_with_its_words(
    runtime: str, told: str, name: str, measured: Callable[..., Measured], tmp_path: Path
) -> None:
    found = measured(REFUSED, runtime=runtime, name=name)
    record, version = found.record, TARGETS[runtime].version()
    assert (record.status, record.runtime, record.name, record.version) == ("failed", runtime, name, version)
    assert record.reason.startswith(f"{tmp_path / 'model.onnx'}: {told} {version} refuses the model: ")
    assert "no.such" in record.reason and "\n" not in record.reason
    assert (record.compressed, record.baseline, record.speedup, found.artefacts) == (None, None, [], ())


@pytest.mark.parametrize("name", WAYS)
def test_a_float_graph_that_is_refused_fails_the_target_too(
    name: str, measured: Callable[..., Measured], tmp_path: Path
) -> None:
    record = measured(None, classifier("Fancy", "no.such"), runtime="onnxruntime", name=name).record
    assert (record.status, record.compressed) == ("failed", None)
    assert record.reason.startswith(f"{tmp_path / 'float.onnx'}: onnxruntime ")


def test_an_engine_that_cannot_be_fed_is_a_failure(measured: Callable[..., Measured]) -> None:
    record = measured(names=("image",), runtime="onnxruntime").record
    assert record.status == "failed"
    assert record.reason == (
        "the model takes the inputs ['x'], but was fed ['image']; feed each input by its name"
    )


def test_a_device_that_throttles_all_the_time_is_unfit(measured: Callable[..., Measured]) -> None:
    noise = {"throttle_rate": 1.0, "throttle_told": True}
    record = measured(runtime="fake", name="hot", noise=noise).record
    assert record.status == "failed"
    assert record.reason == (
        "hot: unfit to be measured on, only 0 of 2 rounds of launches counted, as the CPU throttled 1 times; "
        "see to its cooling and load"
    )


# Built


@pytest.mark.parametrize("name", WAYS)
def test_what_is_built_for_elsewhere_is_kept_with_its_reason(
    name: str, measured: Callable[..., Measured], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TARGETS, "ahead", ahead_runtime)  # type: ignore[arg-type]
    found = measured(runtime="ahead", name=name)
    record, engine = found.record, found.record.compressed
    assert (record.status, record.reason, record.version) == ("built", ahead_runtime.REASON, "1.2")
    assert engine is not None
    assert (engine.label, engine.settings) == ("compressed", {"chips": "['a1', 'a2']"})
    size = (tmp_path / "model.onnx").stat().st_size
    assert engine.engine_bytes == 2 * size  # of the largest: a chip takes one of them
    assert (engine.latency_ms, engine.metric, engine.precision, engine.layers) == (None, None, {}, [])
    assert (record.baseline, record.default, record.parity, record.speedup) == (None, None, None, [])
    assert [(a.kind, a.path.stat().st_size) for a in found.artefacts] == [
        ("ahead-engine-a1", size),
        ("ahead-engine-a2", 2 * size),
    ]
    assert found.artefacts[0].path.parent == tmp_path / "engines" / "compressed"


@pytest.mark.skipif(tensorrt.library() is None, reason="no tensorrt or tensorrt_rtx installed")
@pytest.mark.skipif(bool(tensorrt.devices()), reason="a GPU is here: the engine would run")
def test_tensorrt_without_a_gpu_builds_for_the_gpus_that_are_named(measured: Callable[..., Measured]) -> None:
    found = measured(runtime="tensorrt", compute_capabilities=["SM86"])
    assert (found.record.status, found.record.reason) == ("built", "no NVIDIA GPU here")
    assert [a.path.name for a in found.artefacts] == ["model.sm86.engine"]
    assert found.record.compressed is not None
    assert found.record.compressed.engine_bytes == found.artefacts[0].path.stat().st_size
    assert found.record.compressed.settings["compute_capabilities"] == "['SM86']"


# Not here


def test_a_device_that_is_not_here_is_unavailable(measured: Callable[..., Measured]) -> None:
    record = measured(runtime="openvino", device="NPU.7").record
    assert record.status == "unavailable"
    assert record.reason.startswith("openvino:NPU.7: OpenVINO has no device 'NPU.7' here")


def test_a_device_that_is_lost_on_the_way_is_unavailable(measured: Callable[..., Measured]) -> None:
    record = measured(runtime="fake", name="far", noise={"disconnect_rate": 0.999}).record
    assert record.status == "unavailable"
    assert (
        record.reason
        == "far: it was lost, only 0 of 2 rounds of launches counted, as the connection was lost"
    )


def test_the_two_graphs_of_these_tests_run(measured: Callable[..., Measured]) -> None:
    """Or each of the outcomes above would be that of another fault."""
    record = measured(runtime="fake", name="quiet").record
    assert record.status == "run", record.reason
    assert record.parity is not None and record.parity.ok


def test_settings_are_what_the_build_and_the_launch_tell(measured: Callable[..., Measured]) -> None:
    """onnxruntime counts what it rewrote while it builds, and only then."""
    engine = measured(runtime="onnxruntime", threads=1).record.compressed
    assert engine is not None
    assert engine.settings["quantizers_rewritten_value_for_value"] == 0
    assert engine.settings["intra_op_num_threads"] == 1


def test_a_launch_says_what_it_runs_with_where_the_build_said_otherwise() -> None:
    assert plain_settings({"threads": 2, "typing": "strong"}, {"threads": "2", "streams": 1}) == {
        "threads": 2, "typing": "strong", "streams": 1,
    }  # fmt: skip
    assert plain_settings({"threads": 2}, {"threads": "4"}) == {"threads": "4"}
