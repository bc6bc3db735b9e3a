"""A runtime that a user adds works everywhere that those of ours do, without a line that knows its name."""

from __future__ import annotations

import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import yaml
from edgepress.errors import CompressError
from edgepress.pipeline.comparison.collect import load_comparison
from edgepress.pipeline.devices.file import find_devices
from edgepress.pipeline.gate.run import GatePlan, gate
from edgepress.pipeline.gate.sequential import Limits
from edgepress.pipeline.lint import lint_file
from edgepress.pipeline.recipe.file import read_recipe
from edgepress.pipeline.run import compress
from edgepress.targets import TARGETS
from edgepress.targets.base import TargetOptions
from edgepress.targets.doctor import doctor
from edgepress.targets.measuring.turns import LaunchPlan
from edgepress.targets.remote.device import RemoteDevice, SshHost
from edits import replaced
from small_run import NETWORK, write_recipe
from tiny_onnx import conv_float

OWN_TARGET = Path(__file__).parents[1] / "support" / "own_target"
AGENT = [sys.executable, "-P", "-m", "edgepress.targets.remote.agent"]
QUICK = GatePlan(Limits(looks=(2,)), LaunchPlan(iterations=11, warmup_s=0))


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here and in every process that is started, the runtime is listed as a line in `targets/__init__.py` lists it."""
    monkeypatch.syspath_prepend(str(OWN_TARGET))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(OWN_TARGET), os.environ.get("PYTHONPATH", "")]))
    import plain_runtime

    monkeypatch.setitem(TARGETS, "plain", plain_runtime)


def test_a_run_builds_proves_and_times_it_and_a_gate_takes_what_the_run_left(tmp_path: Path) -> None:
    (tmp_path / "devices.yaml").write_text(yaml.safe_dump({"devices": {"mine": {"runtime": "plain"}}}))
    budgets = {"metric_drop": "50 points", "latency": {"plain": "10 s", "mine": "10 s"}}
    recipe = write_recipe(tmp_path, targets=["plain", "mine"], budgets=budgets)
    fewer = ('"validation": (60, 160), "test": (160, 360)', '"validation": (60, 100), "test": (160, 200)')
    (tmp_path / "small_network.py").write_text(replaced(NETWORK, *fewer))  # NumPy takes its time
    record = compress(recipe, tmp_path / "run")
    assert record.verdict == "PASS", record.reason
    for target, name in zip(record.targets, ("", "mine"), strict=True):
        assert (target.name, target.runtime, target.status) == (name, "plain", "run")
        assert target.version == onnx.__version__
        assert target.parity is not None and target.parity.ok
        assert target.baseline is not None and target.default is None
        assert target.compressed is not None and target.compressed.precision == {"f32": 1.0}
    files = {artefact.path for artefact in record.artefacts}
    for folder in ("engines/plain", "devices/mine"):
        assert {f"{folder}/compressed/model.{part}" for part in ("plain", "constants")} <= files
    [source] = load_comparison([tmp_path / "run"]).sources
    assert source.versions["onnx"] == onnx.__version__

    gated = gate(tmp_path / "run", tmp_path / "run", find_devices(["plain"], None), QUICK)
    [device] = gated.devices
    assert device.baseline.engine_sha256 == device.candidate.engine_sha256
    assert device.baseline.engine_bytes == sum(
        (tmp_path / "run/engines/plain/compressed" / f"model.{part}").stat().st_size
        for part in ("plain", "constants")
    )
    assert gated.verdict != "FAIL", gated.reason


def test_an_engine_file_alone_is_gated(tmp_path: Path) -> None:
    onnx.save(conv_float(), tmp_path / "tiny.onnx")
    TARGETS["plain"].build(tmp_path / "tiny.onnx", TargetOptions(), tmp_path / "engine")
    np.savez(tmp_path / "inputs.npz", x=np.ones((1, 8, 8, 8), np.float32))
    engine = tmp_path / "engine" / "model.plain"
    plan = replace(QUICK, inputs=tmp_path / "inputs.npz")
    gated = gate(engine, engine, find_devices(["plain"], None), plan)
    assert gated.verdict != "FAIL", gated.reason
    both = sum(path.stat().st_size for path in engine.parent.iterdir())
    assert gated.devices[0].baseline.bytes == both


def test_a_device_elsewhere_runs_it_with_all_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    onnx.save(conv_float(), tmp_path / "tiny.onnx")
    feeds = {"x": np.random.default_rng(0).standard_normal((1, 8, 8, 8)).astype(np.float32)}
    device = RemoteDevice("lab", "plain", TargetOptions(), SshHost("here"), AGENT)
    built = device.build(tmp_path / "tiny.onnx", tmp_path / "engine", feeds)
    assert {path.name for path in (tmp_path / "engine").iterdir()} == {"model.plain", "model.constants"}
    wanted = TARGETS["plain"].load(tmp_path / "engine" / "model.plain", TargetOptions()).run(feeds)
    assert [a.tobytes() for a in device.outputs(built, feeds)] == [a.tobytes() for a in wanted]
    adopted = device.adopt(tmp_path / "engine" / "model.plain")
    assert device.launch(adopted, feeds, 11, 0.1).engine_sha256 == built.sha256
    device.close()


def test_what_can_be_asked_of_every_runtime(tmp_path: Path) -> None:
    onnx.save(onnx.shape_inference.infer_shapes(conv_float()), tmp_path / "tiny.onnx")
    [found] = lint_file(tmp_path / "tiny.onnx", ["plain"])["plain"]
    assert (found.node, found.severity) == ("conv", "float")
    [row] = [row for row in doctor() if row.runtime == "plain"]
    assert (row.devices, row.unavailable, row.builds) == (("numpy",), None, "for the devices listed")


def test_what_it_cannot_do_is_told(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, targets=[{"plain": {"compute_capabilities": ["SM86"]}}])
    with pytest.raises(CompressError, match="only tensorrt builds ahead of time, plain does not"):
        read_recipe(recipe)
