"""A run that prunes leaves weights for its factory, the same ones however often it ends; every pass works on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from edgepress.pipeline.run import compress
from edgepress.pipeline.run_record import RunRecord
from edits import replaced
from safetensors.torch import load_file
from small_run import NETWORK, ONNXRUNTIME, write_recipe

QUICK = {"ranges": "minmax", "training": {"epochs": 1, "batch": 16}}
HALF = {"student": {"width": 0.5}, "weight_bits": "float", **QUICK}


def run(folder: Path, name: str, *passes: Any, weights: str = "net.safetensors") -> RunRecord:
    model = {"source": "small_network:net", "weights": weights}
    recipe = write_recipe(
        folder, model=model, passes=list(passes), targets=[ONNXRUNTIME], budgets={"metric_drop": "60 points"}
    )
    split = ('"calibration": (0, 60)', '"train": (0, 40), "calibration": (40, 60)')
    (folder / "small_network.py").write_text(replaced(NETWORK, *split))
    return compress(recipe, folder / name)


def digest(record: RunRecord, kind: str) -> str:
    return next(artefact.sha256 for artefact in record.artefacts if artefact.kind == kind)


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunRecord]:
    folder = tmp_path_factory.mktemp("pruned")
    return folder, run(folder, "first", {"distill": HALF}, {"quantize": {"ranges": "minmax"}})


def test_the_weights_and_the_widths_are_files_of_the_run(pruned: tuple[Path, RunRecord]) -> None:
    folder, record = pruned
    assert record.verdict == "PASS", record.reason
    files = {artefact.kind: artefact.path for artefact in record.artefacts}
    assert files["pruned-weights"] == "pruned.safetensors" and files["widths"] == "widths.json"
    weights = load_file(folder / "first" / "pruned.safetensors")
    assert weights["stem.0.weight"].shape == (4, 1, 3, 3)
    assert "stem.1.running_mean" in weights  # those of the layers, before quantize made one graph of them


def test_a_run_that_is_resumed_writes_the_same_files(pruned: tuple[Path, RunRecord]) -> None:
    folder, record = pruned
    for name in ("pruned.safetensors", "widths.json"):
        (folder / "first" / name).unlink()
    again = run(folder, "first", {"distill": HALF}, {"quantize": {"ranges": "minmax"}})
    assert [step.cached for step in again.steps] == [True, True, True]
    assert [each.latency_ms.cached for each in again.targets[0].between if each.latency_ms] == [True]
    for kind in ("pruned-weights", "widths"):
        assert digest(again, kind) == digest(record, kind)


def test_the_model_between_the_passes_is_timed_in_the_same_turns(pruned: tuple[Path, RunRecord]) -> None:
    folder, record = pruned
    [target] = record.targets
    [between] = target.between
    assert target.compressed is not None and target.compressed.latency_ms is not None
    assert between.step == 1 and between.reason == ""
    assert between.latency_ms is not None and between.latency_ms.p50 > 0
    assert between.latency_ms.launches == target.compressed.latency_ms.launches
    kept = {path.name for path in (folder / "first" / "engines" / "onnxruntime").iterdir()}
    assert kept == {"compressed", "float-f32"}  # it is nobody's to ship


LATER: dict[str, list[Any]] = {
    "quantize": [{"quantize": {"ranges": "minmax"}}],
    "l2": [
        {"l2": {"ratio": 1.2, "importance_samples": 16, "transform_epochs": 0, "training": {"epochs": 0}}}
    ],
    "distill to 4 bits": [{"distill": {"weight_bits": 4, **QUICK}}],
    "a smaller student yet": [{"distill": {**HALF, "student": {"width": 0.5}}}, "quantize"],
}


@pytest.mark.parametrize("case", LATER)
def test_every_pass_works_on_what_is_loaded(case: str, pruned: tuple[Path, RunRecord]) -> None:
    folder, first = pruned
    record = run(folder, case, *LATER[case], weights="first/pruned.safetensors")
    assert record.verdict == "PASS", record.reason
    assert record.steps[0].params == first.steps[1].params
    assert record.steps[0].metric == first.steps[1].metric
    written = "pruned-weights" in {artefact.kind for artefact in record.artefacts}
    assert written == (case == "a smaller student yet")  # the others take nothing out


def test_pruned_weights_are_those_of_a_student_too(pruned: tuple[Path, RunRecord]) -> None:
    folder, first = pruned
    student = {"source": "small_network:net", "weights": "first/pruned.safetensors"}
    teacher = {"source": "small_network:net", "weights": "first/pruned.safetensors", "weight": 0.5}
    options = {"student": student, "teachers": [teacher], "weight_bits": "float", **QUICK}
    record = run(folder, "student", {"distill": options})
    assert record.steps[1].params == first.steps[1].params
