"""Runs and gates of a network whose time depends on its input: launches are fed the data's samples in order."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from statistics import median

import numpy as np
import onnx
import pytest
import ssh_server
import yaml
from branching import CLASSES, branching, sample
from click.testing import CliRunner
from edgepress.cli import cli
from edgepress.errors import CompressError
from edgepress.pipeline.gate.record import GateRecord
from edgepress.pipeline.recipe.file import read_recipe
from edgepress.pipeline.report.read import load_run
from edgepress.pipeline.run import compress
from edgepress.pipeline.run_record import RunRecord
from edgepress.targets.measuring.feeds import FeedSequence
from small_run import ONNXRUNTIME, write_recipe

HARD = (True, False, False)  # which of three samples that follow each other take the long way
QUICK = {"pairs": 2, "iterations": 11, "warmup_s": 0.2}
FIRST_64 = "the first 64 samples of the test part, in order"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """branching.onnx and data.npz, whose test part has 80 samples."""
    onnx.save(branching(), str(tmp_path / "branching.onnx"))
    samples = np.concatenate([sample(HARD[i % 3], i) for i in range(120)])
    parts = {"x_calibration": samples[:20], "x_validation": samples[20:40], "x_test": samples[40:]}
    labels = {name.replace("x_", "y_"): np.arange(len(x)) % CLASSES for name, x in parts.items()}
    (tmp_path / "network_data.py").write_text(SOURCE)
    sys.modules.pop("network_data", None)  # that of the test before, from another folder
    np.savez(tmp_path / "parts.npz", **parts, **labels)
    return tmp_path


SOURCE = """
from pathlib import Path
import numpy as np
import torch

def data():
    read = np.load(Path(__file__).parent / "parts.npz")
    return {
        part: (torch.from_numpy(read[f"x_{part}"]), torch.from_numpy(read[f"y_{part}"]))
        for part in ("calibration", "validation", "test")
    }
"""


def recipe_of(folder: Path, devices: dict[str, object] | None = None, **measure: object) -> Path:
    if devices is not None:
        (folder / "devices.yaml").write_text(yaml.safe_dump({"devices": devices}))
    document = {
        "model": {"source": "branching.onnx"},
        "data": {"source": "network_data:data"},
        "targets": list(devices) if devices is not None else ["onnxruntime"],
        "measure": {**QUICK, **measure},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def sequence_of(folder: Path, count: int) -> FeedSequence:
    test = np.load(folder / "parts.npz")["x_test"]
    return FeedSequence(tuple({"x": test[i : i + 1]} for i in range(count)))


def takes_the_ways(record: RunRecord) -> bool:
    """Whether each of the 64 samples that takes the long way is slower than the others are."""
    for engine in (record.targets[0].baseline, record.targets[0].compressed):
        assert engine is not None and engine.latency_ms is not None
        launches = np.array(engine.latency_ms.samples_ms)
        times = np.median(launches, axis=0)
        hard = np.array([HARD[(40 + i) % 3] for i in range(64)])
        if not median(times[hard]) > 3 * median(times[~hard]):
            return False
    return True


def test_a_run_of_a_network_that_leaves_early(folder: Path) -> None:
    record = compress(recipe_of(folder), folder / "run")
    assert load_run(folder / "run") == record
    latency = record.targets[0].compressed.latency_ms
    assert (latency.inputs, latency.inputs_origin) == (64, FIRST_64)
    assert latency.inputs_sha256 == sequence_of(folder, 64).sha256
    assert [len(launch) for launch in latency.samples_ms] == [64, 64]
    assert takes_the_ways(record)
    assert f"over {FIRST_64}" in (folder / "run" / "report.html").read_text()
    assert f"timed over {FIRST_64}" in compress_cli("report", folder / "run").replace("\n", " ")


@pytest.mark.skipif(shutil.which("ssh") is None, reason="there is no `ssh` here: install OpenSSH's client")
def test_the_same_over_ssh(folder: Path) -> None:
    (folder / "server").mkdir()
    with ssh_server.running(ssh_server.kinds()[0], folder / "server") as server:
        host = server.host
        reached = {
            "host": host.host, "user": host.user, "port": host.port, "identity": str(host.identity),
            "known_hosts": str(host.known_hosts), "python": host.python,
        }  # fmt: skip
        kiosk = {"runtime": "onnxruntime", "threads": 1, "ssh": reached}
        record = compress(recipe_of(folder, {"kiosk": kiosk}), folder / "run")
    latency = record.targets[0].compressed.latency_ms
    assert (latency.inputs, latency.inputs_sha256) == (64, sequence_of(folder, 64).sha256)
    assert takes_the_ways(record)


def test_the_same_on_a_simulated_device(folder: Path) -> None:
    """Inputs have levels there that both engines share: they leave nothing in the ratio of two equal ones."""
    quiet = {"runtime": "fake", "noise": {"input_sd": 1.0, "launch_sd": 0.0, "iteration_sd": 0.0}}
    [target] = compress(recipe_of(folder, {"sim": quiet}), folder / "run").targets
    latency = target.compressed.latency_ms
    assert (latency.inputs, latency.inputs_origin) == (64, FIRST_64)
    assert latency.samples_ms[0] == latency.samples_ms[1] and len(set(latency.samples_ms[0])) == 64
    assert target.speedup[0].ratio == 1.0


@pytest.mark.parametrize(
    ("measure", "told"),
    [
        pytest.param(
            {"samples": 12}, (12, "the first 12 samples of the test part, in order"), id="as many as asked"
        ),
        pytest.param({"samples": 1}, (1, "the example input, repeated"), id="one on request"),
    ],
)
def test_a_recipe_says_how_many(folder: Path, measure: dict[str, object], told: tuple[int, str]) -> None:
    record = compress(recipe_of(folder, {"sim": {"runtime": "fake"}}, **measure), folder / "run")
    latency = record.targets[0].compressed.latency_ms
    assert (latency.inputs, latency.inputs_origin) == told


def test_a_network_whose_work_is_fixed_is_fed_its_example(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, targets=[ONNXRUNTIME], passes=[])
    latency = compress(recipe, tmp_path / "run").targets[0].compressed.latency_ms
    assert (latency.inputs, latency.inputs_origin) == (1, "the example input, repeated")
    measure = {"pairs": 2, "iterations": 11, "warmup_s": 0, "samples": 30, "batch": 10}
    recipe = write_recipe(tmp_path, targets=[ONNXRUNTIME], passes=[], measure=measure)
    latency = compress(recipe, tmp_path / "run").targets[0].compressed.latency_ms
    assert (latency.inputs, latency.inputs_origin) == (3, "the first 30 samples of the test part, in order")
    assert [len(launch) for launch in latency.samples_ms] == [12, 12]


def test_more_samples_than_there_are(folder: Path) -> None:
    with pytest.raises(CompressError) as caught:
        compress(recipe_of(folder, samples=81), folder / "run")
    assert str(caught.value) == ("measure.samples: 81, and the test part has 80 samples; ask for at most 80")


def test_half_a_batch_of_samples(tmp_path: Path) -> None:
    path = write_recipe(tmp_path, measure={"batch": 4, "samples": 10})
    with pytest.raises(CompressError, match="samples: expected a multiple of batch, 4, or 1, got 10"):
        read_recipe(path)


# Gates and profiles


def compress_cli(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(cli, [str(a) for a in arguments], prog_name="compress")
    assert result.exit_code == code, result.output
    return result.output


def gated(folder: Path, *more: object, code: int = 0) -> GateRecord:
    model = folder / "branching.onnx"
    compress_cli(
        "gate", "--baseline", model, "--candidate", model, "-d", "fake", "--golden", folder / "golden",
        "-o", folder / "gate", *more, code=code,
    )  # fmt: skip
    return GateRecord.model_validate_json((folder / "gate" / "gate.json").read_text())


def test_a_gate_feeds_both_sides_the_samples_of_its_recipe(folder: Path) -> None:
    recipe = recipe_of(folder)
    record = gated(folder, "--data", recipe, "--max-drop", 100)
    latency = record.devices[0].latency
    assert (latency.inputs, latency.inputs_origin) == (64, FIRST_64)
    assert latency.inputs_sha256 == sequence_of(folder, 64).sha256
    assert {len(row.samples_ns) for row in latency.launches} == {256}  # 200 were asked for: whole walks
    assert FIRST_64 in (folder / "gate" / "gate.html").read_text()
    assert f"over {FIRST_64}" in (folder / "gate" / "gate.md").read_text()


def test_golden_files_are_of_the_same_inputs_and_older_ones_of_one_are_read(folder: Path) -> None:
    accept = "gate", "--accept", "--candidate", folder / "branching.onnx", "-d", "fake"
    golden = folder / "golden"
    assert gated(folder).devices[0].latency.inputs_origin == "64 random inputs, seed 0"
    for samples in (1, 64):  # of one input: what a gate accepted before it could feed several
        compress_cli(*accept, "--golden", golden, "--samples", samples)
        found = gated(folder)
        (outputs,) = [m for m in found.measures if m.name == "outputs"]
        assert outputs.reason.startswith("bit for bit those of what was accepted (branching")
        assert found.devices[0].latency.inputs == 64
    refused = (
        "gate",
        "--baseline",
        folder / "branching.onnx",
        *accept[2:],
        "--golden",
        golden,
        "-o",
        folder / "g",
    )
    told = compress_cli(*refused, "--samples", 8, code=2)
    assert "fake.json: was accepted on other inputs" in told


def test_a_gate_is_not_fed_two_things(folder: Path) -> None:
    np.savez(folder / "one.npz", x=sample(True))
    model = folder / "branching.onnx"
    common = "gate", "--baseline", model, "--candidate", model, "-d", "fake", "-o", folder / "gate"
    told = compress_cli(*common, "--inputs", folder / "one.npz", "--samples", 8, code=2).replace("\n", " ")
    assert "--samples: 8, and" in told and "one.npz holds one input; leave out one of the two" in told
    told = compress_cli(*common, "--data", recipe_of(folder), "--samples", 500, code=2)
    assert "--samples: 500, and the test part has 80 samples; ask for at most 80" in told


def test_a_profile_feeds_random_samples(folder: Path) -> None:
    profiled = "profile", folder / "branching.onnx", "-d", "fake"
    assert "over 64 random inputs, seed 0" in compress_cli(*profiled).replace("\n", " ")
    assert "over 8 random inputs, seed 3" in compress_cli(*profiled, "--samples", 8, "--seed", 3)
    assert "over one random input, seed 0, repeated" in compress_cli(*profiled, "--samples", 1)
