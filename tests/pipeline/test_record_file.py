"""What records look like as JSON: names, order and digits of their fields, which other programs read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from edgepress.pipeline.gate.golden import Golden, write_golden
from edgepress.pipeline.gate.record import (
    DeviceGate,
    GateRecord,
    LatencyResult,
    LaunchRow,
    Measure,
    Side,
)
from edgepress.pipeline.gate.sequential import Look
from edgepress.pipeline.measure import speedups
from edgepress.pipeline.profile.record import (
    DeviceProfile,
    Profile,
    Profiles,
    Ratio,
    ResourceRecord,
)
from edgepress.pipeline.record_file import write_record
from edgepress.pipeline.run_record import RunRecord
from edgepress.targets.layer import Layer
from edgepress.targets.measuring.latency import LaunchSamples, summarize
from edgepress.targets.measuring.launch import LaunchResult
from edgepress.targets.measuring.sustained import Sustained, sustained
from run_records import engine, run

GOLDEN = Path(__file__).parents[1] / "golden"


def a_launch(label: str, round_: int, samples_ns: tuple[int, ...]) -> LaunchSamples:
    result = LaunchResult(
        load_ms=10.5, first_inference_ms=2.25, warmup_iterations=30, warmup_s=0.0, warmed_up=True,
        calls_per_sample=1, samples_ns=samples_ns, settings={}, started_at="2026-03-14T09:21:07+00:00",
    )  # fmt: skip
    return LaunchSamples(label, round_, round_, result)


def test_a_latency_as_json() -> None:
    launches = [a_launch("compressed", index, (999_877, 1_000_000, 1_234_567)) for index in range(2)]
    assert summarize(launches).model_dump_json() == (
        '{"p50":1.0,"p90":null,"p99":null,"n":6,"launches":2,"ci95":[1.0,1.0],"load_ms":10.5,'
        '"first_inference_ms":2.25,"warmup_iterations":30,"measured_at":"2026-03-14T09:21:07+00:00",'
        '"cached":false,"note":"n = 6, p90 needs 64; n = 6, p99 needs 662",'
        '"samples_ms":[[0.999877,1.0,1.234567],[0.999877,1.0,1.234567]],"inputs":1,"inputs_sha256":"","inputs_origin":""}'
    )


def test_a_speedup_as_json() -> None:
    launches = [
        a_launch(label, index, (ns,)) for index in range(2) for label, ns in (("f32", 7), ("compressed", 7))
    ]
    (found,) = speedups(launches, ["f32"])
    assert found.model_dump_json() == '{"baseline":"f32","ratio":1.0,"ci95":[1.0,1.0],"pairs":2}'


def test_layers_as_json() -> None:
    timed = Layer(
        name="conv+relu",
        type="Convolution",
        precision="int8",
        ms=0.25,
        macs=1000,
        onnx_nodes=("conv", "relu"),
    )
    unknown = Layer(name="loop", type="Loop", precision="unknown", ms=None, macs=None)
    assert [layer.model_dump_json() for layer in (timed, unknown)] == [
        '{"name":"conv+relu","type":"Convolution","precision":"int8","ms":0.25,"macs":1000,'
        '"onnx_nodes":["conv","relu"]}',
        '{"name":"loop","type":"Loop","precision":"unknown","ms":null,"macs":null,"onnx_nodes":[]}',
    ]


def test_a_sustained_load_as_json() -> None:
    assert sustained([250_000_000] * 8).model_dump_json() == (
        '{"seconds":2.0,"first_ms":250.0,"last_ms":250.0,"knee_s":null,"windows_ms":[250.0,250.0,250.0]}'
    )


def test_a_look_as_json() -> None:
    assert LOOK.model_dump_json() == (
        '{"pairs":6,"decision":"FAIL","ratio":1.5,"lower":1.25,"upper":1.75,"p":0.001,"ranks_fail":true,'
        '"ranks_pass":false}'
    )


LOOK = Look(
    pairs=6, decision="FAIL", ratio=1.5, lower=1.25, upper=1.75, p=0.001, ranks_fail=True, ranks_pass=False
)


def a_profile() -> Profile:
    device = DeviceProfile(
        device="CPU", runtime="openvino", version="2026.4.0", status="run", label="openvino:CPU", machine="EPYC",
        options={"device": "CPU"}, engine=engine("openvino:CPU", 1.2, 0.9, {"f32": 1.0}, metric=None),
        engine_sha256="ab" * 32,
        resources=ResourceRecord(
            throughput_per_s=833.3, peak_memory_bytes=78_400_000, engine_memory_bytes=None, joules=None
        ),
        sustained=Sustained(
            seconds=2.5, first_ms=1.2, last_ms=1.4, knee_s=1.0, windows_ms=[1.2, 1.4, 1.4]
        ),
        states=[{"load_average": 0.5}, {"load_average": 0.75}],
    )  # fmt: skip
    return Profile(
        source="m.onnx", sha256="ef" * 32, inputs={"x": [1, 16]}, batch=1, pairs=2, iterations=3,
        float_precision="default", seed=0, environment={"cpu": {"cores": 2}}, devices=[device],
    )  # fmt: skip


def a_gate() -> GateRecord:
    def side(name: str) -> Side:
        return Side(
            source=f"{name}.onnx", name=name, bytes=300, engine_sha256="cd" * 32, engine_bytes=400,
            settings={"threads": 2},
        )  # fmt: skip

    launches = [
        LaunchRow(
            side=one, pair=0, block=10, median_ms=1.5, samples_ns=[1_500_000], state_before={}, state_after={}
        )
        for one in ("baseline", "candidate")
    ]
    latency = LatencyResult(looks=[LOOK], log_ratios=[0.0], launches=launches, set_aside=["lost"])
    device = DeviceGate(
        label="sim", runtime="fake", version=None, machine="none", capabilities={}, options={},
        baseline=side("base"), candidate=side("new"), latency=latency,
    )  # fmt: skip
    measure = Measure(
        name="latency", device="sim", verdict="FAIL", baseline="1.5 ms", candidate="1.6 ms", reason="slower."
    )
    return GateRecord(
        verdict="FAIL", reason="1 of 1 measures failed.", started_at="2026-03-14T09:18:02Z", seconds=7.5,
        seed=0, commit="abc", environment={}, limits={"looks": [6]}, measures=[measure], devices=[device],
    )  # fmt: skip


def a_golden() -> Golden:
    return Golden(
        device="openvino:CPU", machine="EPYC", runtime="openvino", version="2026.4.0", commit="", source="new",
        accepted_at="2026-03-14T09:18:02+00:00", bytes=300, inputs_sha256="ab" * 32, outputs_sha256="cd" * 32,
        outputs=[[0.5, -1.25]],
    )  # fmt: skip


def write_all(folder: Path) -> None:
    """One file of each kind that commands write."""
    write_record(folder / "run.json", run())
    write_record(folder / "gate.json", a_gate())
    write_golden(folder, a_golden())
    Profiles(names=["m"], profiles=[a_profile()], ratios=[]).write(folder)
    ratio = Ratio(device="sim", first="m", other="n", ratio=1.5, ci95=(1.25, 1.75), pairs=2)
    Profiles(names=["m", "n"], profiles=[a_profile(), a_profile()], ratios=[ratio]).write(folder)


FILES = ["run.json", "gate.json", "openvino-CPU.json", "profile.json", "profiles.json"]


def test_the_files_of_records(tmp_path: Path) -> None:
    """After a wanted change: EDGEPRESS_UPDATE_GOLDEN=1 python -m pytest tests/pipeline/test_record_file.py."""
    write_all(tmp_path)
    for name in FILES:
        if os.environ.get("EDGEPRESS_UPDATE_GOLDEN"):
            (GOLDEN / name).write_bytes((tmp_path / name).read_bytes())
        assert (tmp_path / name).read_text() == (GOLDEN / name).read_text(), name


def test_profiles_of_several_models_lie_below_their_file(tmp_path: Path) -> None:
    write_all(tmp_path)
    whole = (GOLDEN / "profile.json").read_text()
    assert [(tmp_path / name / "profile.json").read_text() for name in ("m", "n")] == [whole, whole]


@pytest.mark.parametrize("folder", [GOLDEN, GOLDEN / "earlier"], ids=["as they are written", "of before"])
def test_written_records_are_read_again(folder: Path) -> None:
    """Those of before lack what came later: the samples that were fed, and standard errors."""
    assert RunRecord.model_validate_json((folder / "run.json").read_text()) == run()
    assert GateRecord.model_validate_json((folder / "gate.json").read_text()) == a_gate()
    assert Profile.model_validate_json((folder / "profile.json").read_text()) == a_profile()
    assert Golden.model_validate_json((folder / "openvino-CPU.json").read_text()) == a_golden()
