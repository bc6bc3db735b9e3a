"""Devices of devices.yaml as targets of a recipe: simulated and over SSH, they end in a verdict like local ones."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
import ssh_server
import yaml
from edgepress.errors import CompressError, DeviceUnavailableError
from edgepress.pipeline.recipe.file import read_recipe
from edgepress.pipeline.report.read import load_run
from edgepress.pipeline.run import compress
from small_run import ONNXRUNTIME, write_recipe

QUIET = {"runtime": "fake", "noise": {"launch_sd": 0.001}}


def recipe_with(folder: Path, target: object, budgets: dict[str, object], devices: dict[str, object]) -> Path:
    (folder / "devices.yaml").write_text(yaml.safe_dump({"devices": devices}))
    return write_recipe(folder, targets=[target], budgets={"metric_drop": "50 points", **budgets})


def test_a_simulated_device(tmp_path: Path) -> None:
    budgets = {"latency": {"quiet": "1 s"}, "speedup": {"quiet": 0.01}}
    recipe = recipe_with(tmp_path, "quiet", budgets, {"quiet": QUIET})
    record = compress(recipe, tmp_path / "run")
    assert record.verdict == "PASS", record.reason
    assert load_run(tmp_path / "run") == record
    [target] = record.targets
    assert (target.name, target.runtime, target.status) == ("quiet", "fake", "run")
    assert target.parity is not None and target.parity.ok
    assert target.compressed is not None and target.baseline is not None
    assert target.compressed.metric is not None and target.compressed.metric.n == 200
    assert [s.baseline for s in target.speedup] == ["float, f32"] and target.speedup[0].pairs == 2
    assert "on quiet" in (tmp_path / "run" / "report.md").read_text()
    again = compress(recipe, tmp_path / "run")
    assert again.targets[0].compressed is not None and again.targets[0].compressed.latency_ms is not None
    assert again.targets[0].compressed.latency_ms.cached


@pytest.mark.skipif(shutil.which("ssh") is None, reason="there is no `ssh` here: install OpenSSH's client")
@pytest.mark.parametrize("kind", ssh_server.kinds()[:1])
def test_a_device_over_ssh(kind: str, tmp_path: Path) -> None:
    (tmp_path / "server").mkdir()
    with ssh_server.running(kind, tmp_path / "server") as server:
        host = server.host
        reached = {
            "host": host.host,
            "user": host.user,
            "port": host.port,
            "identity": str(host.identity),
            "known_hosts": str(host.known_hosts),
            "python": host.python,
        }
        kiosk = {
            "runtime": "openvino",
            "device": "CPU",
            "float_precision": "f32",
            "threads": 1,
            "ssh": reached,
        }
        budgets = {"latency": {"kiosk": "1 s"}, "int8_share": {"kiosk": 0.95}}
        record = compress(recipe_with(tmp_path, "kiosk", budgets, {"kiosk": kiosk}), tmp_path / "run")
    assert record.verdict == "PASS", record.reason
    [target] = record.targets
    assert (target.name, target.runtime, target.device) == ("kiosk", "openvino", "CPU")
    assert target.compressed is not None and target.compressed.precision == {"int8": 1.0}
    assert target.baseline is not None and target.baseline.precision == {"f32": 1.0}
    files = {artefact.path for artefact in record.artefacts if artefact.kind == "openvino-engine"}
    assert "devices/kiosk/compressed/model.xml" in files
    assert all((tmp_path / "run" / path).is_file() for path in files)


def test_a_device_that_does_not_answer(tmp_path: Path) -> None:
    gone = {"runtime": "openvino", "ssh": {"host": "127.0.0.1", "port": 1, "connect_timeout_s": 2}}
    recipe = recipe_with(tmp_path, "gone", {"latency": {"gone": "1 s"}}, {"gone": gone})
    record = compress(recipe, tmp_path / "run")
    assert record.verdict == "FAIL"
    assert record.targets[0].status == "unavailable"
    assert record.budgets[1].reason.startswith("not measured: the device is not here (gone: 127")
    recipe = recipe_with(tmp_path, {"gone": {"required": True}}, {}, {"gone": gone})
    with pytest.raises(DeviceUnavailableError, match="gone: 127"):
        compress(recipe, tmp_path / "run")


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("quite", "targets[0]: unknown target 'quite'; did you mean 'quiet'?"),
        ("quiet:CPU", "targets[0]: quiet is a device of devices.yaml, which says which one: leave out :CPU"),
        ("flood", "targets[0]: devices.yaml has it in throughput mode, and a run times single inferences"),
        ({"quiet": {"threads": 2}}, "targets[0].quiet: unknown option 'threads' (known: required)"),
        (
            {"quiet": {"compute_capabilities": ["SM86"]}},
            "targets[0].quiet: unknown option 'compute_capabilities' (known: required)",
        ),
    ],
)
def test_what_a_recipe_says_wrongly_of_a_device(tmp_path: Path, target: object, message: str) -> None:
    flood = {"runtime": "onnxruntime", "mode": "throughput"}
    recipe = recipe_with(tmp_path, target, {}, {"quiet": QUIET, "flood": flood})
    with pytest.raises(CompressError) as caught:
        read_recipe(recipe)
    assert message in str(caught.value)


def test_a_devices_file_that_no_target_needs_is_not_read(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, targets=[ONNXRUNTIME])
    (tmp_path / "devices.yaml").write_text("hosts: [a, b]\n")
    assert read_recipe(recipe).targets[0].runtime == "onnxruntime"


def test_a_device_in_its_own_float_precision_is_compared_with_that_and_with_f32(tmp_path: Path) -> None:
    here = {"runtime": "openvino", "device": "CPU", "threads": 1}
    recipe = recipe_with(tmp_path, "here", {"speedup": {"here": 0.01}}, {"here": here})
    record = compress(recipe, tmp_path / "run")
    [target] = record.targets
    assert target.baseline is not None and target.default is not None
    assert [s.baseline for s in target.speedup] == ["float, f32", "float, runtime default"]
    slower = min(target.speedup, key=lambda s: s.ci95[0])
    # No verdict is asked for: on a busy machine the interval of two pairs has no lower end to rely on.
    kept = "at or above" if slower.ci95[0] >= 0.01 else "below"
    assert record.budgets[1].reason.startswith(
        f"against {slower.baseline}, the lower end of the interval is {kept}"
    )


ANCHORED = """
import torch
from small_network import Net

class Anchored(Net):
    def __init__(self):
        super().__init__()
        self.register_buffer("anchors", torch.arange(6.0).reshape(3, 2))

    def forward(self, x):
        return super().forward(x), self.anchors * 2

def net():
    torch.manual_seed(0)
    return Anchored()
"""


def anchored(folder: Path, **sections: object) -> Path:
    """A recipe whose network has a second output that is one for all samples."""
    (folder / "devices.yaml").write_text(yaml.safe_dump({"devices": {"quiet": QUIET}}))
    model = {"source": "anchored_network:net", "outputs": ["logits", "anchors"]}
    document = {"model": model, "passes": [], "budgets": {"metric_drop": "50 points"}, **sections}
    recipe = write_recipe(folder, targets=["quiet"], **document)
    (folder / "anchored_network.py").write_text(ANCHORED)
    sys.modules.pop("anchored_network", None)
    return recipe


@pytest.mark.parametrize("dynamic_batch", [True, False])
def test_an_output_that_is_one_for_all_samples_is_compared_in_the_batches_of_its_reference(
    dynamic_batch: bool, tmp_path: Path
) -> None:
    record = compress(anchored(tmp_path, export={"dynamic_batch": dynamic_batch}), tmp_path / "run")
    assert record.verdict == "PASS", record.reason
    [target] = record.targets
    assert target.parity is not None and target.parity.ok and target.parity.n == 64


def test_a_required_device_that_goes_away_ends_the_run_and_keeps_its_record(tmp_path: Path) -> None:
    lossy = {"runtime": "fake", "noise": {"disconnect_rate": 0.999}}
    recipe = write_recipe(tmp_path, targets=[{"lossy": {"required": True}}], passes=[])
    (tmp_path / "devices.yaml").write_text(yaml.safe_dump({"devices": {"lossy": lossy}}))
    with pytest.raises(
        DeviceUnavailableError, match=r"lossy: lossy: it was lost, .*; all else is in .*run.json"
    ):
        compress(recipe, tmp_path / "run")
    [target] = load_run(tmp_path / "run").targets
    assert target.status == "unavailable"


def test_where_no_device_ran_anything_nothing_is_decided(tmp_path: Path) -> None:
    lossy = {"runtime": "fake", "noise": {"disconnect_rate": 0.999}}
    recipe = write_recipe(tmp_path, targets=["lossy"], passes=[], budgets={})
    (tmp_path / "devices.yaml").write_text(yaml.safe_dump({"devices": {"lossy": lossy}}))
    record = compress(recipe, tmp_path / "run")
    assert (record.verdict, record.budgets) == ("INCONCLUSIVE", [])
