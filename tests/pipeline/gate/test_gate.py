"""The gate: what it compares, what it says of each difference, and which exit code a CI job sees."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from edgepress.calibration.measurement import Measurement, MetricRecord
from edgepress.cli import cli
from edgepress.errors import CompressError, DeviceUnavailableError
from edgepress.pipeline.devices.file import find_devices
from edgepress.pipeline.gate.accuracy import paired
from edgepress.pipeline.gate.golden import difference, golden_path
from edgepress.pipeline.gate.record import GateRecord, LatencyResult, Measure
from edgepress.pipeline.gate.reports import github_annotations, html, junit_xml, markdown
from edgepress.pipeline.gate.run import GatePlan, gate
from edgepress.pipeline.gate.sequential import Limits, look
from edgepress.pipeline.gate.subjects import subject
from edgepress.pipeline.gate.verdict import accuracy_measure, latency_measure, settle
from edgepress.pipeline.record_file import write_record
from edgepress.targets.measuring.turns import LaunchPlan
from onnx import TensorProto, helper, numpy_helper

FAKE = {"sim": find_devices(["fake"], None)["fake"]}
QUICK = GatePlan(launches=LaunchPlan(iterations=11, warmup_s=0.1))


def network(nodes: int = 1, scale: float = 1.0, width: int = 512) -> onnx.ModelProto:
    """x (N, width) through so many multiplications: about 5.2 us each on the fake device, and 2 us for each node."""
    weight = scale * np.random.default_rng(0).standard_normal((width, width)).astype(np.float32)
    operators, tensor = [], "x"
    for i in range(nodes):
        result = "y" if i == nodes - 1 else f"t{i}"
        operators.append(helper.make_node("MatMul", [tensor, "w"], [result], f"m{i}"))
        tensor = result
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", width]) for name in ("x", "y")]
    graph = helper.make_graph(operators, "net", ends[:1], ends[1:], [numpy_helper.from_array(weight, "w")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


def npz(**arrays: np.ndarray) -> bytes:
    with BytesIO() as file:
        np.savez(file, **arrays)
        return file.getvalue()


def npy(array: np.ndarray) -> bytes:
    with BytesIO() as file:
        np.save(file, array)
        return file.getvalue()


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """base: 50 multiplications; other: its values differ; slower: five more of them."""
    for name, model in (
        ("base", network(50, 0.04)),
        ("other", network(50, 0.04 + 1e-7)),
        ("slower", network(55, 0.04)),
    ):
        onnx.save(model, str(tmp_path / f"{name}.onnx"))
    return tmp_path


def verdict_of(record: GateRecord, name: str) -> Measure:
    (found,) = [m for m in record.measures if m.name == name]
    return found


def test_a_model_against_itself_passes(models: Path) -> None:
    record = gate(models / "base.onnx", models / "base.onnx", FAKE, QUICK)
    told = "All 3 measures hold. Both sides are the same engine. Simulated, not measured: sim."
    assert (record.verdict, record.reason) == ("PASS", told)
    assert [(m.name, m.device, m.verdict) for m in record.measures] == [
        ("size", "sim", "PASS"),
        ("outputs", "sim", "PASS"),
        ("latency", "sim", "PASS"),
    ]


def test_other_values_are_told_with_their_distance(models: Path) -> None:
    record = gate(models / "base.onnx", models / "other.onnx", FAKE, QUICK)
    found = verdict_of(record, "outputs")
    assert (record.verdict, found.verdict) == ("FAIL", "FAIL")
    assert found.reason.startswith("not those of the baseline: largest difference ")
    assert "SQNR" in found.reason and "--accept" in found.reason
    assert verdict_of(record, "size").verdict == "PASS"


def test_a_larger_slower_model_fails_in_each_measure(models: Path) -> None:
    record = gate(models / "base.onnx", models / "slower.onnx", FAKE, QUICK)
    assert [m.verdict for m in record.measures] == ["FAIL", "FAIL", "FAIL"]
    grown = (models / "slower.onnx").stat().st_size - (models / "base.onnx").stat().st_size
    assert verdict_of(record, "size").reason.startswith(f"{grown} bytes more than the baseline")
    latency = verdict_of(record, "latency")
    assert "% (the floor of 0.02 ms) that nobody minds, beyond noise" in latency.reason
    assert latency.p is not None and latency.p <= 0.01


def test_the_floor_is_named_only_where_it_decides() -> None:
    """Of 1 ms, 20 us are 2 %: more than the tolerance of 1 %, less than the budget of 5 %."""
    rows = [
        {
            "side": side, "pair": 0, "block": 10, "median_ms": 1.0, "samples_ns": [1], "state_before": {},
            "state_after": {},
        }
        for side in ("baseline", "candidate")
    ]  # fmt: skip
    d = [0.001, -0.001, 0.002, -0.002, 0.001, 0.0]
    looked = [vars(look(d, 1.0, Limits()))]
    found = LatencyResult.model_validate({"looks": looked, "launches": rows, "log_ratios": d})
    assert latency_measure("d", found, Limits()).reason.endswith("6 pairs; surely below 5 %")


def test_a_faster_candidate_passes(models: Path) -> None:
    record = gate(models / "slower.onnx", models / "base.onnx", FAKE, QUICK)
    assert verdict_of(record, "latency").verdict == "PASS"
    assert verdict_of(record, "size").verdict == "PASS"


def test_raw_samples_and_digests_are_in_the_record(models: Path, tmp_path: Path) -> None:
    record = gate(models / "base.onnx", models / "base.onnx", FAKE, QUICK)
    back = GateRecord.model_validate_json(write_record(tmp_path / "gate.json", record).read_text())
    assert back == record
    (device,) = back.devices
    rows = device.latency.launches
    assert len(rows) % 2 == 0 and all(len(row.samples_ns) == 11 for row in rows)
    assert {frozenset((a.side, b.side)) for a, b in zip(rows[::2], rows[1::2], strict=True)} == {
        frozenset(("baseline", "candidate"))
    }
    assert [row.pair for row in rows] == [i // 2 for i in range(len(rows))]
    assert len(device.latency.log_ratios) == len(rows) // 2
    assert device.baseline.engine_sha256 == device.candidate.engine_sha256


def test_real_engines_are_frozen_and_timed(models: Path) -> None:
    plan = GatePlan(Limits(looks=(2,)), LaunchPlan(iterations=11, warmup_s=0.1))
    record = gate(models / "base.onnx", models / "base.onnx", find_devices(["onnxruntime"], None), plan)
    (device,) = record.devices
    assert len(device.latency.launches) == 4
    assert verdict_of(record, "outputs").verdict == "PASS"


# Bad input


def test_a_device_that_is_not_here(models: Path) -> None:
    with pytest.raises(DeviceUnavailableError, match="OpenVINO has no device 'NPX'"):
        gate(models / "base.onnx", models / "base.onnx", find_devices(["openvino:NPX"], None), QUICK)


def test_models_of_other_interfaces(models: Path) -> None:
    onnx.save(network(width=256), str(models / "narrow.onnx"))
    with pytest.raises(
        CompressError, match=r"narrow\.onnx: the inputs x float32 1 x 256, and .* x float32 1 x 512"
    ):
        gate(models / "base.onnx", models / "narrow.onnx", FAKE, QUICK)


def test_nothing_there(models: Path) -> None:
    with pytest.raises(CompressError, match="no such file or folder; give a run folder"):
        gate(models / "base.onnx", models / "gone.onnx", FAKE, QUICK)


def test_a_folder_without_a_run(models: Path) -> None:
    with pytest.raises(CompressError, match="not a run folder"):
        gate(models / "base.onnx", models, FAKE, QUICK)


# Golden files


def compress(*arguments: object) -> Result:
    result = CliRunner().invoke(cli, [str(a) for a in arguments], prog_name="compress")
    assert "Traceback" not in result.output
    return result


def gated(folder: Path, baseline: str, candidate: str, *more: object) -> Result:
    return compress(
        "gate", "--baseline", folder / baseline, "--candidate", folder / candidate, "-d", "fake", "--golden",
        folder / "golden", "-o", folder / "out", *more,
    )  # fmt: skip


def accepted(folder: Path, candidate: str) -> Result:
    return compress(
        "gate", "--accept", "--candidate", folder / candidate, "-d", "fake", "--golden", folder / "golden"
    )


def test_what_a_person_accepted_is_the_reference(models: Path) -> None:
    assert gated(models, "base.onnx", "other.onnx").exit_code == 3
    result = accepted(models, "other.onnx")
    assert result.exit_code == 0 and "golden/fake.json; commit it" in result.output.replace("\n", "")
    assert gated(models, "base.onnx", "other.onnx").exit_code == 0
    result = gated(models, "base.onnx", "base.onnx")
    assert result.exit_code == 3
    record = GateRecord.model_validate_json((models / "out" / "gate.json").read_text())
    assert verdict_of(record, "outputs").reason.startswith("not those of what was accepted (other, ")
    assert ", which the baseline's are not either: largest difference" in verdict_of(record, "outputs").reason


def test_a_golden_file_of_other_inputs_is_refused(models: Path) -> None:
    accepted(models, "base.onnx")
    result = gated(models, "base.onnx", "base.onnx", "--seed", "7")
    assert result.exit_code == 2
    assert "fake.json: was accepted on other inputs: give the --samples, --batch, --seed, " in result.output


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", '{"device": "fake"}', '{"schema_version": 1, "device": 3}'],
    ids=["empty", "cut", "a list", "incomplete", "wrong"],
)
def test_a_damaged_golden_file_is_named(models: Path, content: str) -> None:
    accepted(models, "base.onnx")
    golden_path(models / "golden", "fake").write_text(content)
    result = gated(models, "base.onnx", "base.onnx")
    assert result.exit_code == 2
    assert "fake.json: not a golden file" in result.output and "accept it anew" in result.output


def test_a_devices_name_makes_no_path() -> None:
    assert golden_path(Path("golden"), "openvino:CPU") == Path("golden/openvino-CPU.json")
    assert golden_path(Path("golden"), "../x/y") == Path("golden/..-x-y.json")


def test_differences_in_words() -> None:
    values = [np.array([3.0, 4.0], np.float32)]
    assert (
        difference([[3.0, 3.5]], values) == "largest difference 0.5, SQNR 19.3 dB"
    )  # 10 log10(21.25 / 0.25)
    assert difference([[3.0]], values) == "the shapes differ"
    assert difference(None, values) == "the bits differ"


# Accuracy


def measurement(scores: list[float]) -> Measurement:
    record = MetricRecord(name="top1", value=float(np.mean(scores)), n=len(scores), ci95=(0, 1), part="test")
    return Measurement(record, np.array(scores))


def test_accuracy_is_a_paired_test() -> None:
    """Of 100 samples 10 are right before and wrong after, 1 the other way: 12 / 2^11 one-sided."""
    before, after = [1.0] * 90 + [1.0] * 9 + [0.0], [1.0] * 90 + [0.0] * 9 + [1.0]
    found = paired(measurement(before), measurement(after))
    assert found.p == pytest.approx((1 + 10) / 2**10)
    assert found.drop == pytest.approx(0.08)
    d = 8 / 102  # 9.5 and 1.5 of 102 after half a sample for each cell
    assert found.at_most == pytest.approx(d + 1.6448536 * (11 - 102 * d**2) ** 0.5 / 102)
    same = paired(measurement(before), measurement(before))
    assert (same.p, same.drop) == (1.0, 0.0)
    assert same.at_most == pytest.approx(1.6448536 / 102)


def test_a_metric_of_the_users_own_is_tested_by_t() -> None:
    draw = np.random.default_rng(0)
    before = draw.uniform(0, 1, 50)
    found = paired(
        measurement(list(before)), measurement(list(before - 0.1 + 0.01 * draw.standard_normal(50)))
    )
    assert found.p < 1e-6 and found.drop == pytest.approx(0.1, abs=0.01)


def test_accuracy_of_real_engines_on_a_recipes_data(tmp_path: Path) -> None:
    """The digits CNN, and the same without its last layer's weights."""
    recipe = Path(__file__).parents[3] / "examples" / "digits" / "cnn.yaml"
    float_path, broken_path = exported_digits(tmp_path / "float.onnx"), tmp_path / "broken.onnx"
    onnx.save(without_its_head(onnx.load(float_path)), broken_path)
    plan = GatePlan(
        Limits(looks=(2,)),
        LaunchPlan(iterations=11, warmup_s=0.1),
        batch=64,
        data=recipe,
        golden=tmp_path / "golden",
    )
    record = gate(float_path, broken_path, find_devices(["onnxruntime"], None), plan)
    found = verdict_of(record, "accuracy")
    assert found.verdict == "FAIL" and found.p is not None and found.p < 1e-6
    assert found.baseline == "top1 99.78 %" and "points, surely no more than" in found.reason


def exported_digits(path: Path) -> Path:
    from edgepress.pipeline.export import export
    from edgepress.pipeline.ingest.model import ingest
    from edgepress.pipeline.recipe.file import read_recipe
    from torch import ones

    recipe = Path(__file__).parents[3] / "examples" / "digits" / "cnn.yaml"
    model = ingest(read_recipe(recipe).model, (ones(2, 1, 32, 32),), folder=recipe.parent)
    return export(model, path)


def without_its_head(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with nought for the weights of its last layer."""
    [weight] = [each for each in model.graph.initializer if each.name in model.graph.node[-1].input[1:2]]
    weight.CopyFrom(numpy_helper.from_array(np.zeros_like(numpy_helper.to_array(weight)), weight.name))
    return model


def test_few_samples_are_inconclusive_and_never_pass() -> None:
    """Of 30 samples none differs: the bound is 1.6449 / 32 = 5.1 points, beyond the 2 that are asked for."""
    found = accuracy_measure("d", paired(measurement([1.0] * 30), measurement([1.0] * 30)), 0.02)
    assert found.verdict == "INCONCLUSIVE"
    assert "surely no more than 5.14 points lost, the limit is 2: too few samples to tell" in found.reason
    assert (
        accuracy_measure("d", paired(measurement([1.0] * 200), measurement([1.0] * 200)), 0.02).verdict
        == "PASS"
    )


@pytest.mark.parametrize("scores", [[1.0], [1.0, float("nan")]], ids=["one", "NaN"])
def test_scores_that_no_test_can_use(scores: list[float]) -> None:
    with pytest.raises(CompressError, match="a test needs at least 2, all with numbers"):
        paired(measurement(scores), measurement(scores))


def test_a_golden_file_of_another_machine_is_not_asked_for_bits(models: Path) -> None:
    accepted(models, "other.onnx")
    path = golden_path(models / "golden", "fake")
    golden = json.loads(path.read_text()) | {"machine": "another"}
    path.write_text(json.dumps(golden))
    assert gated(models, "base.onnx", "base.onnx").exit_code == 0
    record = GateRecord.model_validate_json((models / "out" / "gate.json").read_text())
    assert (
        "(what was accepted is of another, None: its bits mean nothing here)"
        in verdict_of(record, "outputs").reason
    )


def test_outputs_that_are_no_numbers_fail_also_where_nothing_changed(models: Path) -> None:
    graph = network(1)
    graph.graph.node[0].output[0] = "t"
    graph.graph.node.append(helper.make_node("Log", ["t"], ["y"], "log"))  # of negative numbers
    onnx.save(graph, str(models / "nan.onnx"))
    record = gate(models / "nan.onnx", models / "nan.onnx", FAKE, QUICK)
    assert verdict_of(record, "outputs").reason == "they hold NaN or infinite values"
    assert accepted(models, "nan.onnx").exit_code == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read as an .npz file"),
        (b"PK\x03\x04cut", "cannot be read as an .npz file"),
        (npy(np.zeros(3)), "cannot be read as an .npz file"),
        (npz(), "holds no arrays"),
        (npz(x=np.full((1, 512), np.nan, np.float32)), "input 'x' holds NaN"),
        (npz(y=np.zeros((1, 512), np.float32)), "the inputs y float32 1 x 512, and"),
        (npz(x=np.zeros((1, 512), np.int64)), "the inputs x int64 1 x 512, and"),
    ],
    ids=["empty", "cut", "npy", "no arrays", "NaN", "name", "type"],
)
def test_inputs_that_cannot_be_fed(models: Path, content: bytes, message: str) -> None:
    (models / "x.npz").write_bytes(content)
    result = gated(models, "base.onnx", "base.onnx", "--inputs", models / "x.npz")
    assert result.exit_code == 2 and message in result.output


def test_inputs_of_the_user_are_fed_and_fix_the_batch(models: Path) -> None:
    (models / "x.npz").write_bytes(npz(x=np.ones((3, 512), np.float32)))
    assert gated(models, "base.onnx", "base.onnx", "--inputs", models / "x.npz").exit_code == 0
    record = GateRecord.model_validate_json((models / "out" / "gate.json").read_text())
    assert record.devices[0].options["batch"] == 3


def test_weights_beside_an_onnx_file_count(models: Path) -> None:
    graph = onnx.load(str(models / "base.onnx"))
    onnx.save(graph, str(models / "ext.onnx"), save_as_external_data=True, location="ext.data")
    with subject(models / "ext.onnx") as side:
        assert side.bytes == (models / "ext.onnx").stat().st_size + (models / "ext.data").stat().st_size


def test_an_earlier_verdict_does_not_survive_a_gate_that_could_not_run(models: Path) -> None:
    gated(models, "base.onnx", "base.onnx")
    assert gated(models, "base.onnx", "base.onnx", "--inputs", models / "gone.npz").exit_code == 2
    assert list((models / "out").iterdir()) == []


def test_a_device_that_goes_away_is_exit_code_5(models: Path) -> None:
    (models / "devices.yaml").write_text(
        "devices:\n  gone: { runtime: fake, noise: { disconnect_rate: 0.99 } }\n"
    )
    result = compress(
        "gate", "--baseline", models / "base.onnx", "--candidate", models / "base.onnx", "-d", "gone",
        "--devices", models / "devices.yaml", "-o", models / "out",
    )  # fmt: skip
    assert result.exit_code == 5
    assert (
        GateRecord.model_validate_json((models / "out" / "gate.json").read_text()).verdict == "INCONCLUSIVE"
    )


def test_a_summary_that_cannot_be_written_does_not_change_the_verdict(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(models / "gone" / "summary.md"))
    result = gated(models, "base.onnx", "base.onnx")
    assert result.exit_code == 0 and "the step summary was not written" in result.output


# Reports and exit codes


@pytest.mark.parametrize(
    ("candidate", "code", "words"),
    [("base.onnx", 0, "PASS: All 3 measures hold. Both sides"), ("slower.onnx", 3, "FAIL: size on fake")],
)
def test_exit_codes_and_files(models: Path, candidate: str, code: int, words: str) -> None:
    result = gated(models, "base.onnx", candidate)
    assert result.exit_code == code and words in result.output
    assert sorted(p.name for p in (models / "out").iterdir()) == [
        "gate.html",
        "gate.json",
        "gate.md",
        "junit.xml",
    ]


def test_a_noisy_device_is_inconclusive(models: Path) -> None:
    (models / "devices.yaml").write_text("devices:\n  wild: { runtime: fake, noise: { launch_sd: 0.5 } }\n")
    result = compress(
        "gate", "--baseline", models / "base.onnx", "--candidate", models / "base.onnx", "-d", "wild",
        "--devices", models / "devices.yaml", "-o", models / "out",
    )  # fmt: skip
    assert result.exit_code == 4
    told = " ".join(result.output.split())
    assert "neither surely slower than" in told and "measure on a quieter machine" in told
    suite = ElementTree.fromstring((models / "out" / "junit.xml").read_text()).find("testsuite")
    assert [case.find("error") is not None for case in suite] == [False, False, True]
    assert suite.get("errors") == "1"


def test_json_is_one_document(models: Path) -> None:
    result = gated(models, "base.onnx", "base.onnx", "--json")
    assert GateRecord.model_validate(json.loads(result.stdout)).verdict == "PASS"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--candidate", "x.onnx", "-d", "fake"], "--baseline is missing"),
        (
            ["--baseline", "x.onnx", "--candidate", "x.onnx", "-d", "fake", "--tolerance", "5"],
            "must be below --budget 5",
        ),
        (["--baseline", "x.onnx", "--candidate", "x.onnx", "-d", "fakes"], "did you mean 'fake'?"),
        (
            ["--baseline", "x.onnx", "--candidate", "x.onnx", "-d", "fake", "--tolerance", "nan"],
            "must be below --budget",
        ),
        (
            ["--baseline", "x.onnx", "--candidate", "x.onnx", "-d", "fake", "--floor", "inf"],
            "--floor and --max-drop numbers",
        ),
        (
            ["--baseline", "x.onnx", "--candidate", "x.onnx", "-d", "fake", "--accept"],
            "--baseline is not looked at",
        ),
    ],
    ids=["no baseline", "tolerance", "device", "NaN", "no floor", "accept"],
)
def test_wrong_usage(arguments: list[str], message: str) -> None:
    result = compress("gate", *arguments)
    assert result.exit_code == 2 and message in result.output


def test_github_gets_annotations_and_a_summary(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    summary = models / "summary.md"
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    result = gated(models, "base.onnx", "slower.onnx")
    lines = [line for line in result.output.splitlines() if line.startswith("::")]
    assert [line.partition("::")[2].split(" on ")[0] for line in lines] == [
        "error title=FAIL size",
        "error title=FAIL outputs",
        "error title=FAIL latency",
    ]
    assert summary.read_text().startswith("## Gate: FAIL\n")
    gated(models, "base.onnx", "base.onnx")
    assert summary.read_text().count("## Gate: ") == 2  # the summary of earlier steps stays


HOSTILE = "a|b<script>\n::error::x\x1b[31m%0A"


def test_untrusted_names_do_nothing_in_reports(models: Path) -> None:
    record = gate(models / "base.onnx", models / "slower.onnx", FAKE, QUICK)
    measure = record.measures[0].model_copy(update={"device": HOSTILE, "reason": HOSTILE})
    device = record.devices[0].model_copy(update={"label": HOSTILE})
    hostile = record.model_copy(update={"measures": [measure], "devices": [device], "reason": HOSTILE})
    (line,) = github_annotations(hostile)
    assert "\n" not in line and line.startswith("::error title=") and line.endswith("%250A")
    assert "<script>" not in html(hostile) and "\x1b" not in html(hostile)
    assert "<script>" not in markdown(hostile) and "a\\|b" in markdown(hostile)
    ElementTree.fromstring(junit_xml(hostile))


def test_the_page_shows_every_pair(models: Path) -> None:
    record = gate(models / "base.onnx", models / "slower.onnx", FAKE, QUICK)
    page = html(record)
    assert page.count("<circle") == len(record.devices[0].latency.launches) // 2
    assert "http" not in page.replace("http-equiv", "")  # nothing is fetched


def test_a_gate_adds_its_candidate_to_the_history(models: Path) -> None:
    gated(models, "base.onnx", "slower.onnx")
    result = compress("history", "add", models / "out", "--file", models / "h.jsonl", "--commit", "abc")
    assert "2 points of slower at abc added" in result.output
    lines = [json.loads(line) for line in (models / "h.jsonl").read_text().splitlines()]
    assert [(p["model"], p["device"], p["measure"]) for p in lines] == [
        ("slower", "fake", "latency_ms"),
        ("slower", "fake", "bytes"),
    ]
    record = GateRecord.model_validate_json((models / "out" / "gate.json").read_text())
    medians = [r.median_ms for r in record.devices[0].latency.launches if r.side == "candidate"]
    low, high = lines[0]["ci95"]
    assert low < lines[0]["value"] < high
    assert lines[0]["value"] == pytest.approx(float(np.median(medians)))


def test_a_pass_stays_one_whatever_the_other_tests_say() -> None:
    """Holm's later steps are laxer than the share that a look was given."""
    passed = {"pairs": 6, "decision": "PASS", "ratio": 1.03, "lower": 1.008, "upper": 1.048, "p": 0.008}
    rows = {"looks": [{**passed, "ranks_fail": True, "ranks_pass": True}], "launches": []}
    rows["launches"] = [
        {
            "side": side, "pair": 0, "block": 10, "median_ms": 9.0, "samples_ns": [1], "state_before": {},
            "state_after": {},
        }
        for side in ("baseline", "candidate")
    ]  # fmt: skip
    found = LatencyResult.model_validate(rows)
    slow = LatencyResult.model_validate(
        {
            **rows,
            "looks": [{**passed, "decision": "FAIL", "p": 1e-6, "ranks_fail": True, "ranks_pass": False}],
        }
    )
    measures = [latency_measure("a", slow, Limits()), latency_measure("b", found, Limits())]
    settled, verdict, _ = settle(measures, Limits())
    assert ([m.verdict for m in settled], verdict) == (["FAIL", "PASS"], "FAIL")


def test_a_gate_does_not_overwrite_a_run(models: Path) -> None:
    (models / "out").mkdir()
    (models / "out" / "run.json").write_text("{}")
    (models / "out" / "junit.xml").write_text("of the run")
    result = gated(models, "base.onnx", "base.onnx")
    assert result.exit_code == 2 and "name another folder for the gate" in result.output.replace("\n", " ")
    assert (models / "out" / "junit.xml").read_text() == "of the run"
