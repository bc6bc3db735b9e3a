"""A whole run of `tokens` and `quantize`: the engine computes what the network does, and the schedule is handed on."""

from __future__ import annotations

import json
from pathlib import Path

import edgepress
from edgepress.pipeline.run import compress
from small_run import ONNXRUNTIME, write_recipe

DIGITS = Path(edgepress.__file__).parent / "examples" / "digits"


def recipe(folder: Path, target: str, passes: list[object]) -> Path:
    return write_recipe(
        folder,
        model={
            "source": "edgepress.examples.digits.models:vit",
            "weights": str(DIGITS / "vit.safetensors"),
        },
        data={"source": "edgepress.examples.digits.data:digits", "calibration_samples": 32},
        passes=passes,
        targets=[target],
        budgets={"metric_drop": "10 points"},
    )


def test_tokens_then_quantize_and_the_schedule_in_another_recipe(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
    passes = [{"tokens": {"target": 0.6, "start": 0, "method": "uniform"}}, "quantize"]
    record = compress(recipe(first, "openvino:CPU", passes), first / "run")
    assert record.verdict == "PASS", record.reason
    float_step, tokens_step, quantized = record.steps
    assert float_step.macs is not None and tokens_step.macs is not None
    assert 0.57 * float_step.macs <= tokens_step.macs <= 0.6 * float_step.macs
    assert quantized.macs == tokens_step.macs
    [target] = record.targets
    assert target.parity is not None and target.parity.ok
    assert target.compressed is not None and target.compressed.precision["int8"] > 0.9
    [kept] = [artefact.path for artefact in record.artefacts if artefact.kind == "token-schedule"]
    assert json.loads((first / "run" / kept).read_text()) == tokens_step.details["tokens"]["schedule"]
    report = (first / "run" / "report.html").read_text()
    assert (
        "Tokens: tokens" in report
        and "patch tokens after each block" in (first / "run" / "report.md").read_text()
    )

    taken_up = [{"tokens": {"schedule": str(first / "run" / kept)}}]
    again = compress(recipe(second, ONNXRUNTIME, taken_up), second / "run")
    assert again.verdict == "PASS", again.reason
    assert again.steps[1].details["tokens"]["schedule"] == tokens_step.details["tokens"]["schedule"]
    assert all(proof.ok for proof in again.proofs)
