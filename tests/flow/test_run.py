"""A whole run on a small network: the record, the exit code, reuse, kill and resume."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from edgepress.errors import CompressError, DeviceUnavailableError
from edgepress.passes.quantize import Quantize
from edgepress.pipeline.export import export
from edgepress.pipeline.prepare import Prepared
from edgepress.pipeline.recipe.file import read_recipe
from edgepress.pipeline.report.read import load_run
from edgepress.pipeline.run import compress, describe
from edits import replaced
from safetensors.torch import save_file
from small_run import NETWORK, ONNXRUNTIME, OPENVINO, write_recipe

ABSENT = "openvino:NPU.7"  # no machine has so many


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    return write_recipe(tmp_path)


@pytest.fixture
def light(tmp_path: Path) -> Path:
    """For tests that do not look at devices."""
    return write_recipe(tmp_path, targets=[ONNXRUNTIME])


def run_cli(recipe: Path, out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(recipe, out, *options), capture_output=True, text=True, timeout=300)


def command(recipe: Path, out: Path, *options: str) -> list[str]:
    return [sys.executable, "-P", "-m", "edgepress.cli", "run", str(recipe), "-o", str(out), *options]


def test_a_student_of_four_bits_runs_in_int8_and_comes_with_its_packed_weights(tmp_path: Path) -> None:
    options = {"weight_bits": 4, "ranges": "minmax", "training": {"epochs": 2, "batch": 16}}
    budgets = {"metric_drop": "20 points"}
    recipe = write_recipe(tmp_path, passes=[{"distill": options}], targets=[OPENVINO], budgets=budgets)
    network = tmp_path / "small_network.py"
    network.write_text(
        replaced(NETWORK, '"calibration": (0, 60)', '"train": (0, 40), "calibration": (40, 60)')
    )
    record = compress(recipe, tmp_path / "run")
    assert record.verdict == "PASS", record.reason
    [openvino] = record.targets
    assert openvino.compressed is not None
    assert openvino.compressed.precision == {"int8": 1.0}
    packed = {artefact.kind: artefact for artefact in record.artefacts}["packed-weights"]
    assert packed.bytes == (tmp_path / "run" / "packed.safetensors").stat().st_size
    assert [row["epoch"] for row in record.steps[1].details["training"]["quantized"]["epochs"]] == [0, 1, 2]
    assert list((tmp_path / "run" / "steps").glob(".scratch-*")) == []
    again = compress(recipe, tmp_path / "run")
    assert again.steps[1].cached
    assert [a.sha256 for a in again.artefacts] == [a.sha256 for a in record.artefacts]


def test_a_student_needs_samples_to_learn_from(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, passes=[{"distill": {"ranges": "minmax"}}])
    with pytest.raises(CompressError, match="it trains on the train part of the data, and there is none"):
        compress(recipe, tmp_path / "run")


def test_a_run_leaves_a_record_that_holds_what_it_promises(recipe: Path, tmp_path: Path) -> None:
    record = compress(recipe, tmp_path / "run")
    assert record.verdict == "PASS", record.reason
    assert [s.pass_name for s in record.steps] == ["float", "quantize"]
    assert record.steps[0].metric.n == 200 and record.steps[0].metric.part == "test"
    assert record.steps[1].bytes < record.steps[0].bytes / 2
    openvino, onnxruntime = record.targets
    assert openvino.status == onnxruntime.status == "run"
    assert openvino.compressed is not None and openvino.compressed.precision == {"int8": 1.0}
    assert openvino.baseline is not None and openvino.baseline.precision == {"f32": 1.0}
    assert [s.baseline for s in openvino.speedup] == ["float, f32", "float, runtime default"]
    assert record.proofs and all(proof.ok for proof in record.proofs)
    assert openvino.parity is not None and openvino.parity.ok
    for alike in (record.steps[1].fidelity, openvino.fidelity, onnxruntime.fidelity):
        assert alike is not None and (alike.n, alike.part) == (200, "test")
        assert alike.agreement > 0.9 and 0 <= alike.kl < 0.01  # INT8 moves these outputs by a few per cent
    sizes = {a.path: a.bytes for a in record.artefacts}
    assert {"float.onnx", "model.onnx"} <= sizes.keys()
    assert sizes == {path: (tmp_path / "run" / path).stat().st_size for path in sizes}
    for name in ("run.json", "report.html", "report.md", "junit.xml"):
        assert (tmp_path / "run" / name).is_file()
    assert load_run(tmp_path / "run") == record


def test_layers_before_and_after_carry_the_names_of_modules(recipe: Path, tmp_path: Path) -> None:
    record = compress(recipe, tmp_path / "run")
    target = record.targets[0]
    for engine in (target.baseline, target.compressed):
        assert engine is not None
        names = {node for layer in engine.layers if layer.macs for node in layer.onnx_nodes}
        assert {"stem.0", "block.0", "block.2", "head"} <= names


def test_a_broken_promise_is_a_verdict_and_exit_code_3(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, targets=[ONNXRUNTIME], budgets={"bytes": "100 B"})
    done = run_cli(recipe, tmp_path / "run")
    assert done.returncode == 3, done.stderr
    assert json.loads((tmp_path / "run" / "run.json").read_text())["verdict"] == "FAIL"


def test_a_second_run_reuses_everything_and_says_so(recipe: Path, tmp_path: Path) -> None:
    first = compress(recipe, tmp_path / "run")
    exported = (tmp_path / "run" / "model.onnx").stat().st_mtime_ns
    second = compress(recipe, tmp_path / "run")
    assert (tmp_path / "run" / "model.onnx").stat().st_mtime_ns == exported
    assert second.proofs == first.proofs
    assert [s.cached for s in first.steps] == [False, False]
    assert [s.cached for s in second.steps] == [True, True]
    assert [t.runtime for t in first.targets] == ["openvino", "onnxruntime"]
    for before, after in zip(first.targets, second.targets, strict=True):
        assert before.compressed and after.compressed
        assert before.compressed.latency_ms and after.compressed.latency_ms
        assert not before.compressed.latency_ms.cached and after.compressed.latency_ms.cached
        assert after.compressed.latency_ms.measured_at == before.compressed.latency_ms.measured_at
    assert first.artefacts == second.artefacts
    again = compress(recipe, tmp_path / "run", remeasure=True)
    latency = again.targets[0].compressed.latency_ms  # type: ignore[union-attr]
    assert latency is not None and not latency.cached and again.steps[1].cached


def test_a_changed_option_is_another_step(light: Path, tmp_path: Path) -> None:
    compress(light, tmp_path / "run")
    recipe = write_recipe(tmp_path, targets=[ONNXRUNTIME], passes=[{"quantize": {"ranges": "minmax"}}])
    assert [s.cached for s in compress(recipe, tmp_path / "run").steps] == [True, False]


def test_changed_weights_are_another_model(light: Path, tmp_path: Path) -> None:
    import torch

    compress(light, tmp_path / "run")
    namespace: dict[str, object] = {}
    exec(NETWORK, namespace)
    torch.manual_seed(1)
    save_file(namespace["net"]().state_dict(), tmp_path / "net.safetensors")  # type: ignore[operator]
    assert [s.cached for s in compress(light, tmp_path / "run").steps] == [False, False]


def test_killed_and_resumed_gives_the_bytes_of_an_uninterrupted_run(tmp_path: Path) -> None:
    recipe, killed, whole = (
        write_recipe(tmp_path, targets=[ONNXRUNTIME]),
        tmp_path / "killed",
        tmp_path / "whole",
    )
    process = subprocess.Popen(
        command(recipe, killed), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    finished = lambda: len(list((killed / "steps").glob("*/manifest.json")))  # noqa: E731
    deadline = time.monotonic() + 240
    while finished() < 2 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    assert process.poll() is None, "the run ended before it could be killed"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (killed / "run.json").exists()
    resumed = run_cli(recipe, killed, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert "quantize: reused, finished in an earlier run" in resumed.stderr
    assert run_cli(recipe, whole).returncode == 0
    digests = [{a.path: a.sha256 for a in load_run(folder).artefacts} for folder in (killed, whole)]
    assert digests[0] == digests[1] and len(digests[0]) >= 4


def test_a_damaged_entry_of_the_store_is_done_again(light: Path, tmp_path: Path) -> None:
    compress(light, tmp_path / "run")
    for tensors in (tmp_path / "run" / "steps").glob("*/tensors.safetensors"):
        tensors.write_bytes(tensors.read_bytes()[:-1] + b"\0\0")
    assert not any(s.cached for s in compress(light, tmp_path / "run").steps)


def test_a_required_device_that_is_not_here_stops_the_run_before_any_work(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, targets=[{ABSENT: {"required": True}}])
    with pytest.raises(DeviceUnavailableError, match=rf"{ABSENT} is required and not here"):
        compress(recipe, tmp_path / "run")
    assert run_cli(recipe, tmp_path / "run").returncode == 5


def test_a_device_that_is_not_here_and_not_required_is_reported_with_its_reason(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, targets=[ONNXRUNTIME, ABSENT])
    target = compress(recipe, tmp_path / "run").targets[1]
    assert target.status == "unavailable" and "NPU.7" in target.reason


def test_dry_run_touches_nothing(recipe: Path) -> None:
    before = sorted(recipe.parent.iterdir())
    facts = describe(read_recipe(recipe), recipe.parent)
    assert facts["model"]["params"] == 1 * 8 * 9 + 16 + 2 * (8 * 8 * 9 + 8) + 8 * 2 + 2
    assert facts["data"] == {"train": 0, "calibration": 60, "validation": 100, "test": 200}
    assert [p for p in sorted(recipe.parent.iterdir()) if p.name != "__pycache__"] == before


def test_a_network_without_passes_is_proven_and_passes(tmp_path: Path) -> None:
    """Also where the runtime chooses BF16 by itself: then the limit is that of BF16."""
    recipe = write_recipe(tmp_path, passes=[], budgets={"metric_drop": "5 points"})
    record = compress(recipe, tmp_path / "run")
    assert record.verdict == "PASS", record.reason
    edges = [proof.edge for target in record.targets for proof in target.parities]
    assert "float, f32: ONNX → openvino:CPU" in edges and "compressed: ONNX → onnxruntime" in edges


def test_a_run_in_which_no_device_ran_is_inconclusive(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, targets=[ABSENT])
    assert compress(recipe, tmp_path / "run").verdict == "INCONCLUSIVE"
    assert run_cli(recipe, tmp_path / "run").returncode == 4


def test_a_changed_metric_function_is_measured_again(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, targets=[ONNXRUNTIME], passes=[], metric="small_metric:score", budgets={})
    metric = "import torch\ndef score(outputs, labels):\n    return torch.full((len(labels),), {})\n"
    (tmp_path / "small_metric.py").write_text(metric.format(0.25))
    run_cli(recipe, tmp_path / "run")
    assert load_run(tmp_path / "run").steps[0].metric.value == 0.25
    (tmp_path / "small_metric.py").write_text(metric.format(0.75))
    run_cli(recipe, tmp_path / "run")
    record = load_run(tmp_path / "run")
    assert record.steps[0].metric.value == 0.75 and not record.steps[0].cached


def test_a_failed_run_leaves_no_older_verdict_behind(light: Path, tmp_path: Path) -> None:
    compress(light, tmp_path / "run")
    broken = {"source": "small_network:net", "weights": "recipe.yaml"}
    recipe = write_recipe(tmp_path, targets=[ONNXRUNTIME], model=broken)
    assert run_cli(recipe, tmp_path / "run").returncode == 2
    assert not (tmp_path / "run" / "run.json").exists() and not (tmp_path / "run" / "report.html").exists()


def test_two_runs_in_one_folder_do_not_mix(recipe: Path, tmp_path: Path) -> None:
    from edgepress.errors import CompressError
    from edgepress.pipeline.lock import locked

    folder = tmp_path / "run"
    folder.mkdir()
    with locked(folder), pytest.raises(CompressError, match="another run is working in this folder"):
        compress(recipe, folder)


def test_two_runs_at_once_share_what_one_of_them_computed(light: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    processes = [
        subprocess.Popen(command(light, tmp_path / name, "--store", str(store))) for name in ("one", "other")
    ]
    assert [process.wait(timeout=300) for process in processes] == [0, 0]
    one, other = (load_run(tmp_path / name) for name in ("one", "other"))
    assert sorted([one.steps[1].cached, other.steps[1].cached]) == [False, True]
    assert {a.kind: a.sha256 for a in one.artefacts} == {a.kind: a.sha256 for a in other.artefacts}
    assert not (tmp_path / "one" / "steps").exists() and not list(store.glob(".*"))


def test_an_onnx_model_with_weights_beside_it_runs(tmp_path: Path) -> None:
    import onnx

    recipe = write_recipe(tmp_path, targets=[ONNXRUNTIME], passes=[])
    compress(recipe, tmp_path / "first")
    whole = onnx.load(tmp_path / "first" / "float.onnx")
    onnx.save(
        whole, tmp_path / "net.onnx", save_as_external_data=True, location="net.data", size_threshold=100
    )
    recipe = write_recipe(tmp_path, targets=[ONNXRUNTIME], passes=[], model={"source": "net.onnx"})
    assert compress(recipe, tmp_path / "second").verdict == "PASS"


def test_a_quantized_onnx_file_of_a_fixed_batch_runs_as_it_is(tmp_path: Path) -> None:
    """Its last batch is filled up: 7 divides neither the samples of the proofs nor those of the metric."""
    prepared = Prepared(read_recipe(write_recipe(tmp_path, targets=[ONNXRUNTIME])), tmp_path)
    data, model = prepared.read()
    seven = replace(model, example_inputs=(model.example_inputs[0].repeat(7, 1, 1, 1),), dynamic_batch=False)
    plain = Quantize(ranges="minmax", equalization="off", bias_correction=False, sensitivity_samples=0)
    export(plain.apply(seven, prepared.context(data)).model, tmp_path / "net.onnx")
    recipe = write_recipe(
        tmp_path,
        targets=[ONNXRUNTIME],
        passes=[],
        model={"source": "net.onnx"},
        measure={"pairs": 2, "iterations": 11, "warmup_s": 0, "batch": 7},
        budgets={},
    )
    record = compress(recipe, tmp_path / "run")
    assert record.verdict == "PASS" and record.targets[0].status == "run", record.reason
    assert [proof.n for proof in record.proofs] == [64] and record.steps[0].metric.n == 200


def test_a_network_of_a_factory_and_its_own_exported_file_share_a_store(tmp_path: Path) -> None:
    """Both are exported to the same bytes, and passes name layers, which the two call otherwise."""
    quick = {"quantize": {"ranges": "minmax", "equalization": "off", "sensitivity_samples": 4}}
    (tmp_path / "factory").mkdir()
    own = write_recipe(tmp_path / "factory", targets=[ONNXRUNTIME], passes=[quick])
    compress(own, tmp_path / "first", store=tmp_path / "store")
    (tmp_path / "file").mkdir()
    exported = {"source": str(tmp_path / "first" / "float.onnx")}
    from_file = write_recipe(tmp_path / "file", targets=[ONNXRUNTIME], passes=[quick], model=exported)
    record = compress(from_file, tmp_path / "second", store=tmp_path / "store")
    assert record.verdict == "PASS", record.reason
    assert [step.cached for step in record.steps] == [False, False]
