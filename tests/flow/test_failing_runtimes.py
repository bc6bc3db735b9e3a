"""A runtime that dies, hangs or fills the memory fails alone: the run ends with its record, and all else is kept."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest
import yaml
from edgepress.pipeline.lint import lint_file
from edgepress.pipeline.report.read import load_run
from edgepress.pipeline.run import compress
from edgepress.targets import TARGETS
from small_run import ONNXRUNTIME, write_recipe

FAULTY = Path(__file__).parents[1] / "support" / "faulty"
LOOPBACK = Path(__file__).parents[1] / "support" / "loopback"
"""Where an `ssh` is whose every host is this machine."""
STAGES = {
    "build": "building model.onnx",
    "load": "while loading model.onnx",
    "inference": "in the first inference of model.onnx",
}
ANY_STAGE = r"(building|loading|in the first inference of|running|measuring) (model|float)\.onnx"
KINDS = {
    "signal": r"died by signal 8 \(SIGFPE\)",
    "hang": r"no answer within \d+ s",
    "memory": r"more than 1 GB of memory",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all runs: the steps before the devices are done once."""
    folder = tmp_path_factory.mktemp("faulty")
    budgets = {"metric_drop": "50 points", "latency": {"faulty": "1 s"}}
    write_recipe(folder, targets=[ONNXRUNTIME, "faulty"], passes=[], budgets=budgets)
    return folder


@pytest.fixture(autouse=True)
def faulty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FAULTY))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(FAULTY), os.environ.get("PYTHONPATH", "")]))
    import faulty_runtime

    monkeypatch.setitem(TARGETS, "faulty", faulty_runtime)


def test_without_a_fault_the_faulty_runtime_runs(place: Path) -> None:
    record = compress(place / "recipe.yaml", place / "run")
    assert [(t.runtime, t.status) for t in record.targets] == [("onnxruntime", "run"), ("faulty", "run")]
    assert record.verdict == "PASS", record.reason


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_is_the_record_of_its_target_and_of_no_other(
    stage: str, kind: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAULT", f"{stage}:{kind}")
    recipe = place / f"{kind}.yaml"
    document = yaml.safe_load((place / "recipe.yaml").read_text())
    document["targets"] = ["faulty"]
    document["measure"] |= {"timeout_s": 2} if kind == "hang" else {"memory": "1 GB"}
    recipe.write_text(yaml.safe_dump(document))
    record = compress(recipe, place / "run", remeasure=True)  # without the fault it was measured before
    assert record.verdict == "FAIL"
    assert load_run(place / "run") == record
    [failed] = record.targets
    assert failed.status == "failed"
    assert re.search(KINDS[kind], failed.reason), failed.reason
    # On a busy machine the time may be over before the stage is reached.
    assert re.search(ANY_STAGE if kind == "hang" else re.escape(STAGES[stage]), failed.reason), failed.reason
    assert failed.reason in record.reason
    assert [step.pass_name for step in record.steps] == ["float"]
    assert (place / "run" / "report.html").is_file()


@pytest.mark.parametrize(
    ("fault", "measure", "told"),
    [
        pytest.param(
            "build:hang",
            {"timeout_s": 2},
            r"no answer within 2 s \(measure\.timeout_s raises it\) while building model\.onnx",
            id="a build that hangs",
        ),
        pytest.param(
            "inference:hang",
            {"timeout_s": 10},
            r"no answer within 10 s \(measure\.timeout_s raises it\) while in the first inference of",
            id="an inference that hangs",
        ),
        pytest.param(
            "build:memory",
            {"memory": "1 GB"},
            r"more than 1 GB of memory \(measure\.memory raises it\) while building model\.onnx",
            id="a build without end",
        ),
    ],
)
@pytest.mark.parametrize("where", ["here", "over SSH"])
def test_the_limits_of_a_recipe_hold_on_a_named_device(
    where: str,
    fault: str,
    measure: dict[str, object],
    told: str,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Over SSH too the engine's process is ended where it runs, and the message says what raises the limit."""
    device: dict[str, object] = {"runtime": "faulty"}
    if where == "over SSH":
        monkeypatch.setenv("PATH", os.pathsep.join([str(LOOPBACK), os.environ["PATH"]]))
        monkeypatch.setenv("TMPDIR", str(place))  # the lease of its CPU is nobody else's
        device["ssh"] = {"host": "lab", "python": sys.executable}
    (place / "devices.yaml").write_text(yaml.safe_dump({"devices": {"far": device}}))
    monkeypatch.setenv("FAULT", fault)
    document = yaml.safe_load((place / "recipe.yaml").read_text())
    document["targets"], document["budgets"] = ["far"], {"metric_drop": "50 points"}
    document["measure"] |= measure
    (place / "far.yaml").write_text(yaml.safe_dump(document))
    [failed] = compress(place / "far.yaml", place / "run", remeasure=True).targets
    assert failed.status == "failed"
    said = "far on lab: " if where == "over SSH" else ""
    assert re.match(said + told, failed.reason), failed.reason


def test_a_runtime_that_dies_while_linting_is_a_finding_of_its_own(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compress(place / "recipe.yaml", place / "run")
    monkeypatch.setenv("FAULT", "lint:signal")
    found = lint_file(place / "run" / "model.onnx", ["faulty", "onnxruntime"])
    assert found["onnxruntime"] == []
    [finding] = found["faulty"]
    assert finding.severity == "refused"
    assert re.search(KINDS["signal"] + " while faulty linting", finding.problem), finding.problem
