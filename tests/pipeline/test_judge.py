"""The verdict, against numbers worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest
from edgepress.pipeline.budgets import Budgets
from edgepress.pipeline.judge import judge
from edgepress.pipeline.run_record import TargetRecord
from edgepress.targets.measuring.latency import Speedup
from run_records import F32, MODEL, STEPS, cpu, engine, latency, metric, parity, step, tensorrt


def decide(budgets: dict[str, Any], **changes: Any) -> tuple[Any, str, str]:
    """The only budget's record, the verdict and its reason."""
    given = {"steps": STEPS, "proofs": [parity()], "targets": [cpu(), tensorrt()], "artefacts": [MODEL]}
    records, verdict, reason = judge(Budgets.model_validate(budgets), **{**given, **changes})
    return (records[0] if records else None), verdict, reason


KEPT = [
    ({"metric_drop": "0.5 points"}, "0.5 points", "0.46 points (86.74 % → 86.28 %, n = 656)"),
    ({"metric_drop": "1 %"}, "1 % of the float value", "0.53 % (86.74 % → 86.28 %, n = 656)"),
    ({"latency": {"openvino:CPU": "1.2 ms"}}, "1.2 ms", "1.20 ms"),
    ({"speedup": {"openvino:CPU": 1.29}}, "at least 1.29×", "1.32× (95 % interval 1.29–1.35×, 6 pairs)"),
    ({"int8_share": {"openvino:CPU": 0.95}}, "at least 95 %", "97.10 %"),
    ({"memory": {"openvino:CPU": "80 MB"}}, "80.00 MB", "78.40 MB"),
    ({"bytes": "1.9 MB"}, "1.90 MB", "1.90 MB"),
]


@pytest.mark.parametrize(("budgets", "limit", "measured"), KEPT, ids=lambda v: str(v)[:30])
def test_a_kept_budget_passes_with_both_numbers(budgets, limit, measured):
    record, verdict, reason = decide(budgets)
    assert (record.limit, record.measured, record.verdict) == (limit, measured, "PASS")
    assert (verdict, reason) == ("PASS", "The one budget was kept, and every proof held.")


BROKEN = [
    ({"metric_drop": "0.45 points"}, "0.46 points (86.74 % → 86.28 %, n = 656)"),
    ({"metric_drop": "0.5 %"}, "0.53 % (86.74 % → 86.28 %, n = 656)"),
    ({"latency": {"openvino:CPU": "1.19 ms"}}, "1.20 ms"),
    ({"speedup": {"openvino:CPU": 1.3}}, "1.32× (95 % interval 1.29–1.35×, 6 pairs)"),
    ({"int8_share": {"openvino:CPU": 0.98}}, "97.10 %"),
    ({"memory": {"openvino:CPU": "78.39 MB"}}, "78.40 MB"),
    ({"bytes": 1_899_999}, "1,900,000 B"),
]


@pytest.mark.parametrize(("budgets", "measured"), BROKEN, ids=lambda v: str(v)[:30])
def test_a_broken_budget_fails_the_run(budgets, measured):
    record, verdict, reason = decide(budgets)
    assert (record.measured, record.verdict, verdict) == (measured, "FAIL", "FAIL")
    assert reason.startswith("1 of 1 budgets is broken. ")
    assert measured in reason


def test_memory_that_the_machine_does_not_tell_keeps_no_budget():
    silent = engine("openvino:CPU int8", 1.2, 0.8628, {"int8": 1.0}, peak_memory_bytes=None)
    record, verdict, _ = decide({"memory": {"openvino:CPU": "1 GB"}}, targets=[cpu(compressed=silent)])
    assert (record.verdict, verdict, record.measured) == ("FAIL", "FAIL", "not measured")
    assert record.reason == "not measured: the machine does not tell what the process held."


def test_a_budget_is_of_the_device_of_its_very_name():
    slow = cpu(name="CPU", compressed=engine("x", 9.0, 0.8628, {"int8": 1.0}))
    record, _, _ = decide({"latency": {"CPU": "2 ms"}}, targets=[cpu(), slow])
    assert (record.measured, record.verdict) == ("9.00 ms", "FAIL")
    record, _, _ = decide({"latency": {"CPU": "2 ms"}}, targets=[cpu()])
    assert (record.measured, record.verdict) == ("1.20 ms", "PASS")


ON_TENSORRT = [{"latency": {"tensorrt": 1}}, {"speedup": {"tensorrt": 1}}, {"int8_share": {"tensorrt": 0.5}}]


@pytest.mark.parametrize("budgets", ON_TENSORRT, ids=str)
def test_a_budget_on_a_device_that_did_not_run_is_never_kept(budgets):
    record, verdict, _ = decide(budgets)
    assert (record.verdict, record.measured, verdict) == ("FAIL", "not measured", "FAIL")
    assert record.reason == (
        "not measured: the engine was built but could not be run here (no NVIDIA GPU here to run on)."
    )


def test_a_device_that_is_not_here_fails_only_its_own_budgets():
    gone = TargetRecord(device="GPU", runtime="openvino", version="1", status="unavailable", reason="no GPU")
    assert decide({"latency": {"openvino:CPU": 2}}, targets=[cpu(), gone])[1] == "PASS"
    record, verdict, _ = decide({"latency": {"openvino:GPU": 2}}, targets=[cpu(), gone])
    assert (record.reason, verdict) == ("not measured: the device is not here (no GPU).", "FAIL")


def test_a_budget_on_a_device_that_the_recipe_has_not_says_so():
    record, _, _ = decide({"latency": {"openvino:NPU": 2}})
    assert record.reason == "not measured: the run has no target openvino:NPU."


def test_the_worst_device_decides_the_metric():
    worse = cpu(runtime="onnxruntime", device="", compressed=engine("int8", 1.0, 0.86, {"int8": 1.0}))
    record, verdict, _ = decide({"metric_drop": "0.5 points"}, targets=[cpu(), worse])
    assert (record.measured, verdict) == ("0.74 points (86.74 % → 86.00 %, n = 656)", "FAIL")
    assert record.reason.startswith("onnxruntime is the worst of 3 places")


def test_the_last_step_is_judged_too():
    steps = [STEPS[0], step("quantize", 0.80, 1_000)]
    record, _, _ = decide({"metric_drop": "0.5 points"}, steps=steps)
    assert record.measured == "6.74 points (86.74 % → 80.00 %, n = 656)"
    assert record.reason.startswith("the PyTorch model after the last pass is the worst")


def test_half_a_point_is_half_a_point_in_floating_point():
    steps = [step("float", 0.8674, 4_000), step("quantize", 0.8624, 1_000)]
    record, verdict, _ = decide({"metric_drop": "0.5 points"}, steps=steps)
    assert (record.measured, verdict) == ("0.50 points (86.74 % → 86.24 %, n = 656)", "PASS")


def test_a_gain_is_no_drop():
    better = engine("int8", 1.0, 0.9, {"int8": 1.0})
    record, verdict, _ = decide(
        {"metric_drop": "0 points"},
        targets=[cpu(compressed=better)],
        steps=[STEPS[0], step("quantize", 0.9, 1)],
    )
    assert (verdict, record.measured) == ("PASS", "-3.26 points (86.74 % → 90.00 %, n = 656)")
    assert record.reason.endswith("nothing was lost.")


@pytest.mark.parametrize(
    ("compressed_metric", "why"),
    [
        (None, "the compressed engine on openvino:CPU ran without its metric"),
        (metric(0.87, n=64), "were measured on different samples (test, n = 64, against test, n = 656)"),
        (metric(float("nan")), "is not a number"),
    ],
)
def test_a_metric_that_cannot_be_compared_fails(compressed_metric, why):
    compressed = engine("int8", 1.0, 0.87, {"int8": 1.0}, metric=compressed_metric)
    record, verdict, _ = decide({"metric_drop": "5 points"}, targets=[cpu(compressed=compressed)])
    assert (record.measured, verdict) == ("not measured", "FAIL")
    assert why in record.reason


def test_a_device_measured_on_fewer_samples_is_compared_with_its_own_float_engine():
    target = cpu(
        baseline=engine(F32, 1.6, 0.85, {"f32": 1.0}, metric=metric(0.85, n=64)),
        compressed=engine("int8", 1.2, 0.83, {"int8": 1.0}, metric=metric(0.83, n=64)),
    )
    record, _, _ = decide({"metric_drop": "1 points"}, targets=[target])
    assert record.measured == "2.00 points (85.00 % → 83.00 %, n = 64)"


def test_a_speed_up_over_another_baseline_does_not_keep_the_promise():
    other = [Speedup(baseline="openvino:CPU default", ratio=3.0, ci95=(2.9, 3.1), pairs=6)]
    record, verdict, _ = decide({"speedup": {"openvino:CPU": 1.1}}, targets=[cpu(speedup=other)])
    assert (record.measured, verdict) == ("not measured", "FAIL")


def test_a_cached_latency_is_named_with_its_date():
    cached = engine("int8", 1.2, 0.8628, {"int8": 1.0}, latency_ms=latency(1.2, cached=True))
    record, _, _ = decide({"latency": {"openvino:CPU": 2}}, targets=[cpu(compressed=cached)])
    assert record.reason.endswith("; a cached measurement of 2026-03-14T09:21:07Z.")


def test_a_number_just_past_its_limit_does_not_look_like_the_limit():
    slow = engine("int8", 1.2000004, 0.8628, {"int8": 0.94999})
    targets = [cpu(compressed=slow)]
    assert decide({"latency": {"openvino:CPU": 1.2}}, targets=targets)[0].measured == "1.200000 ms"
    record, verdict, _ = decide({"int8_share": {"openvino:CPU": 0.95}}, targets=targets)
    assert (record.measured, verdict) == ("94.999000 %", "FAIL")


def test_a_runtime_that_does_not_tell_its_precision_keeps_no_int8_promise():
    silent = engine("int8", 1.2, 0.8628, {})
    record, _, _ = decide({"int8_share": {"openvino:CPU": 0.0}}, targets=[cpu(compressed=silent)])
    assert (record.measured, record.verdict) == ("not measured", "FAIL")


def test_external_weights_count_as_bytes_of_the_model():
    data = MODEL.model_copy(update={"path": "model.onnx.data", "kind": "onnx weights", "bytes": 200_000})
    other = MODEL.model_copy(update={"path": "float.onnx", "bytes": 9_000_000})
    record, verdict, _ = decide({"bytes": "2 MB"}, artefacts=[other, MODEL, data])
    assert (record.measured, verdict) == ("2.10 MB", "FAIL")
    assert decide({"bytes": "2 MB"}, artefacts=[other])[0].measured == "not measured"


def test_without_budgets_nothing_was_promised():
    assert decide({}) == (
        None, "PASS", "The recipe names no budgets, so nothing was promised; every proof held."
    )  # fmt: skip


def test_a_broken_proof_fails_the_run_even_when_every_budget_is_kept():
    _, verdict, reason = decide({"bytes": "2 MB"}, proofs=[parity("pytorch to onnx", ok=False)])
    assert verdict == "FAIL"
    assert reason == (
        "The proof pytorch to onnx is broken: "
        "the outputs differ by more than the limit (SQNR at least 30 dB), SQNR 34.2 dB."
    )


def test_a_broken_proof_says_the_layer_and_the_worst_output():
    found = parity("pytorch to onnx", ok=False).model_copy(
        update={
            "where": "'conv3' (Conv): SQNR 90.0 dB before, 4.0 dB after",
            "worst": "output 1: SQNR 4.0 dB",
        }
    )
    reason = decide({}, proofs=[found])[2]
    assert reason.endswith(
        "(SQNR at least 30 dB); the worst is output 1: SQNR 4.0 dB. "
        "First layer that differs: 'conv3' (Conv): SQNR 90.0 dB before, 4.0 dB after."
    )


def test_a_wrong_baseline_is_told_and_fails_only_what_stands_on_it():
    wrong = cpu(float_parity=[parity("float, f32: ONNX → openvino:CPU", ok=False)])
    _, verdict, reason = decide({"bytes": "2 MB"}, targets=[wrong])
    assert verdict == "PASS"
    assert reason.startswith("The one budget was kept, and every proof of what is shipped held. ")
    assert "The speed-up over a baseline on openvino:CPU is void. The proof float, f32: ONNX" in reason
    record, verdict, _ = decide({"speedup": {"openvino:CPU": 1.0}}, targets=[wrong])
    assert (record.measured, verdict) == ("not measured", "FAIL")
    assert "the proof float, f32: ONNX → openvino:CPU is broken" in record.reason


def test_a_broken_proof_of_a_device_fails_the_run():
    assert decide({}, targets=[cpu(parity=parity(ok=False))], proofs=[])[1] == "FAIL"


def test_a_failed_device_fails_the_run():
    failed = TargetRecord(
        device="", runtime="tensorrt", version=None, status="failed", reason="parser refused Clip"
    )
    assert decide({}, targets=[failed])[1:] == ("FAIL", "The device tensorrt failed: parser refused Clip.")


@pytest.mark.parametrize(
    ("runtime", "device", "label"),
    [
        ("openvino", "CPU", "openvino:CPU"),
        ("openvino", "openvino:CPU", "openvino:CPU"),
        ("onnxruntime", "", "onnxruntime"),
        ("onnxruntime", "onnxruntime", "onnxruntime"),
    ],
)
def test_a_device_has_one_label(runtime, device, label):
    assert TargetRecord(device=device, runtime=runtime, version=None, status="built").label == label
