"""A whole run on a small network: the record, the exit code, reuse, kill and resume."""

from __future__ import annotations

import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from edgepress.cli import cli
from edgepress.errors import CompressError, DeviceUnavailableError
from edgepress.passes.quantize import Quantize
from edgepress.pipeline.export import export
from edgepress.pipeline.prepare import Prepared
from edgepress.pipeline.recipe.file import read_recipe
from edgepress.pipeline.report.read import load_run
from edgepress.pipeline.run import compress, describe
from edgepress.pipeline.run_record import RunRecord
from edits import replaced
from forked import ended, killed, started
from safetensors.torch import save_file
from small_run import ABSENT, NETWORK, ONNXRUNTIME, OPENVINO, write_recipe

ONE_OF_TWO = [ONNXRUNTIME, ABSENT]


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    return write_recipe(tmp_path)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunRecord]:
    """A finished run on both runtimes, and its record; nobody writes into it."""
    folder = tmp_path_factory.mktemp("both")
    return folder, compress(write_recipe(folder), folder / "run")


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of one device that is here and one that is not; nobody writes into it."""
    return finished(tmp_path_factory.mktemp("measured"), ONE_OF_TWO)


@pytest.fixture(scope="module")
def undecided(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of no device, for tests that do not look at any; nobody writes into it."""
    return finished(tmp_path_factory.mktemp("undecided"), [ABSENT])


def finished(folder: Path, targets: list[str]) -> Path:
    compress(write_recipe(folder, targets=targets), folder / "run")
    return folder


@pytest.fixture
def done(measured: Path, tmp_path: Path) -> Path:
    """The recipe of that run, in a folder of the test's own with a copy of what it left."""
    return copied(measured, tmp_path)


@pytest.fixture
def unjudged(undecided: Path, tmp_path: Path) -> Path:
    return copied(undecided, tmp_path)


def copied(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    sys.modules.pop("small_network", None)
    return to / "recipe.yaml"


def run_cli(recipe: Path, out: Path, *options: str) -> Result:
    return CliRunner().invoke(cli, ["run", str(recipe), "-o", str(out), *options], prog_name="compress")


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


def test_a_run_leaves_a_record_that_holds_what_it_promises(both: tuple[Path, RunRecord]) -> None:
    folder, record = both
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
    assert sizes == {path: (folder / "run" / path).stat().st_size for path in sizes}
    for name in ("run.json", "report.html", "report.md", "junit.xml"):
        assert (folder / "run" / name).is_file()
    assert load_run(folder / "run") == record


def test_layers_before_and_after_carry_the_names_of_modules(both: tuple[Path, RunRecord]) -> None:
    _, record = both
    target = record.targets[0]
    for engine in (target.baseline, target.compressed):
        assert engine is not None
        names = {node for layer in engine.layers if layer.macs for node in layer.onnx_nodes}
        assert {"stem.0", "block.0", "block.2", "head"} <= names


def test_a_broken_promise_is_a_verdict_and_exit_code_3(done: Path) -> None:
    write_recipe(done.parent, targets=ONE_OF_TWO, budgets={"bytes": "100 B"})
    result = run_cli(done, done.parent / "run")
    assert result.exit_code == 3, result.stderr
    assert load_run(done.parent / "run").verdict == "FAIL"


def test_a_second_run_reuses_everything_and_says_so(both: tuple[Path, RunRecord], tmp_path: Path) -> None:
    folder, first = both
    recipe = copied(folder, tmp_path)
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


def test_on_request_it_measures_again_what_it_reuses(done: Path) -> None:
    again = compress(done, done.parent / "run", remeasure=True)
    latency = again.targets[0].compressed.latency_ms  # type: ignore[union-attr]
    assert latency is not None and not latency.cached and again.steps[1].cached


def test_a_changed_option_is_another_step(unjudged: Path) -> None:
    write_recipe(unjudged.parent, targets=[ABSENT], passes=[{"quantize": {"ranges": "minmax"}}])
    assert [s.cached for s in compress(unjudged, unjudged.parent / "run").steps] == [True, False]


def test_changed_weights_are_another_model(unjudged: Path) -> None:
    import torch

    namespace: dict[str, object] = {}
    exec(NETWORK, namespace)
    torch.manual_seed(1)
    save_file(namespace["net"]().state_dict(), unjudged.parent / "net.safetensors")  # type: ignore[operator]
    assert [s.cached for s in compress(unjudged, unjudged.parent / "run").steps] == [False, False]


def test_killed_and_resumed_gives_the_bytes_of_an_uninterrupted_run(measured: Path, tmp_path: Path) -> None:
    recipe, folder = write_recipe(tmp_path, targets=ONE_OF_TWO), tmp_path / "killed"
    process = started(compress, recipe, folder)
    kept = lambda: len(list((folder / "steps").glob("[!.]*/manifest.json")))  # noqa: E731
    deadline = time.monotonic() + 240
    while kept() < 2 and time.monotonic() < deadline and process.is_alive():
        time.sleep(0.01)
    assert process.is_alive(), "the run ended before it could be killed"
    killed(process)
    assert not (folder / "run.json").exists()
    resumed = run_cli(recipe, folder, "--resume")
    assert resumed.exit_code == 0, resumed.stderr
    assert "quantize: reused, finished in an earlier run" in resumed.stderr
    digests = [{a.path: a.sha256 for a in load_run(f).artefacts} for f in (folder, measured / "run")]
    assert digests[0] == digests[1] and len(digests[0]) >= 4


def test_a_damaged_entry_of_the_store_is_done_again(unjudged: Path) -> None:
    damaged = 0
    for tensors in (unjudged.parent / "run" / "steps").glob("*/tensors.safetensors"):
        tensors.write_bytes(tensors.read_bytes()[:-1] + b"\0\0")
        damaged += 1
    assert damaged >= 2
    assert not any(s.cached for s in compress(unjudged, unjudged.parent / "run").steps)


def test_a_required_device_that_is_not_here_stops_the_run_before_any_work(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, targets=[{ABSENT: {"required": True}}])
    with pytest.raises(DeviceUnavailableError, match=rf"{ABSENT} is required and not here"):
        compress(recipe, tmp_path / "run")
    assert run_cli(recipe, tmp_path / "run").exit_code == 5


def test_a_device_that_is_not_here_and_not_required_is_reported_with_its_reason(measured: Path) -> None:
    record = load_run(measured / "run")
    assert record.verdict == "PASS", record.reason
    assert record.targets[1].status == "unavailable" and "NPU.7" in record.targets[1].reason


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


def test_a_run_in_which_no_device_ran_is_inconclusive(unjudged: Path) -> None:
    assert load_run(unjudged.parent / "run").verdict == "INCONCLUSIVE"
    assert run_cli(unjudged, unjudged.parent / "run").exit_code == 4


def test_a_changed_metric_function_is_measured_again(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, targets=[ABSENT], passes=[], metric="small_metric:score", budgets={})
    metric = "import torch\ndef score(outputs, labels):\n    return torch.full((len(labels),), {})\n"

    def measured_as(value: float) -> Any:
        (tmp_path / "small_metric.py").write_text(metric.format(value))
        sys.modules.pop("small_metric", None)  # another process reads the function as it is now
        compress(recipe, tmp_path / "run")
        return load_run(tmp_path / "run").steps[0]

    assert measured_as(0.25).metric.value == 0.25
    again = measured_as(0.75)
    assert again.metric.value == 0.75 and not again.cached


def test_a_failed_run_leaves_no_older_verdict_behind(done: Path) -> None:
    run = done.parent / "run"
    assert (run / "run.json").exists() and (run / "report.html").exists()
    broken = {"source": "small_network:net", "weights": "recipe.yaml"}
    write_recipe(done.parent, targets=ONE_OF_TWO, model=broken)
    assert run_cli(done, run).exit_code == 2
    assert not (run / "run.json").exists() and not (run / "report.html").exists()


def test_two_runs_in_one_folder_do_not_mix(recipe: Path, tmp_path: Path) -> None:
    from edgepress.pipeline.lock import locked

    folder = tmp_path / "run"
    folder.mkdir()
    with locked(folder), pytest.raises(CompressError, match="another run is working in this folder"):
        compress(recipe, folder)


def test_two_runs_at_once_share_what_one_of_them_computed(tmp_path: Path) -> None:
    recipe, store = write_recipe(tmp_path, targets=[ABSENT]), tmp_path / "store"
    processes = [started(_stored, recipe, tmp_path / name, store) for name in ("one", "other")]
    assert [ended(process) for process in processes] == [0, 0]
    one, other = (load_run(tmp_path / name) for name in ("one", "other"))
    assert sorted([one.steps[1].cached, other.steps[1].cached]) == [False, True]
    assert {a.kind: a.sha256 for a in one.artefacts} == {a.kind: a.sha256 for a in other.artefacts}
    assert not (tmp_path / "one" / "steps").exists() and not list(store.glob(".*"))


def _stored(recipe: Path, folder: Path, store: Path) -> None:
    compress(recipe, folder, store=store)


def test_an_onnx_model_with_weights_beside_it_runs(measured: Path, tmp_path: Path) -> None:
    import onnx

    whole = onnx.load(measured / "run" / "float.onnx")
    onnx.save(
        whole, tmp_path / "net.onnx", save_as_external_data=True, location="net.data", size_threshold=100
    )
    recipe = write_recipe(tmp_path, targets=[ONNXRUNTIME], passes=[], model={"source": "net.onnx"})
    assert compress(recipe, tmp_path / "run").verdict == "PASS"


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


def test_a_network_of_a_factory_and_its_own_exported_file_share_a_store(
    measured: Path, tmp_path: Path
) -> None:
    """Both are exported to the same bytes, and passes name layers, which the two call otherwise."""
    store = tmp_path / "store"
    shutil.copytree(measured / "run" / "steps", store)
    exported = {"source": str(measured / "run" / "float.onnx")}
    recipe = write_recipe(tmp_path, targets=ONE_OF_TWO, model=exported)
    record = compress(recipe, tmp_path / "run", store=store)
    assert record.verdict == "PASS", record.reason
    assert [step.cached for step in record.steps] == [False, False]
