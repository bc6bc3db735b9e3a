"""A recipe opened: the same data, model and context for whoever asks, also in another process."""

from __future__ import annotations

import os
import pickle
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from edgepress.errors import CompressError, DeviceUnavailableError
from edgepress.pipeline.prepare import Prepared
from edgepress.pipeline.recipe.file import read_recipe
from edgepress.pipeline.run import describe
from edgepress.targets.graphs.vnni import FULL, weight_limit
from edgepress.targets.measuring.fake import FakeDevice
from edgepress.targets.measuring.machine import cpu_model
from small_run import ABSENT, ONNXRUNTIME, write_recipe


def test_the_context_of_a_pass_goes_to_another_process(tmp_path: Path) -> None:
    recipe = read_recipe(write_recipe(tmp_path, targets=[ONNXRUNTIME]))
    prepared = Prepared(recipe, tmp_path)
    data, model = prepared.read()
    context = prepared.context(data)
    there = pickle.loads(pickle.dumps(context))
    (plan, again) = (recipe.passes[0].plan(model, each) for each in (context, there))
    assert plan.structure == again.structure
    assert all(torch.equal(tensor, again.tensors[name]) for name, tensor in plan.tensors.items())
    assert there.layer_ms is not None and set(there.layer_ms(model)) >= {"stem.0", "head"}
    assert there.packed_bytes is not None and there.packed_bytes(model) > 1000


def test_data_and_scheme_are_those_of_the_recipe(tmp_path: Path) -> None:
    prepared = Prepared(read_recipe(write_recipe(tmp_path)), tmp_path)
    assert prepared.data().manifest == prepared.data().manifest
    assert prepared.scheme.asymmetric and prepared.scheme.centred_products  # OpenVINO and onnxruntime take it


def test_a_batch_that_the_network_does_not_take_is_refused_before_any_work(tmp_path: Path) -> None:
    recipe = read_recipe(write_recipe(tmp_path, export={"dynamic_batch": False}, measure={"batch": 4}))
    with pytest.raises(CompressError) as caught:
        describe(recipe, tmp_path)
    assert str(caught.value) == "measure.batch: 4, and the network takes exactly 1 at once; write batch: 1"


AGENT_OF_ANOTHER_CPU = """\
#!{python}
import sys
sys.path.insert(0, {root!r})
from pathlib import Path
from edgepress.targets.graphs import vnni
vnni.CPUINFO = Path({cpuinfo!r})
vnni.weight_limit.cache_clear()
from edgepress.targets.remote.agent import main
main()
"""
needs_vnni = pytest.mark.skipif(weight_limit() != FULL, reason="this machine's own CPU limits the weights")


def scheme_with_a_device_over_ssh(folder: Path, runtime: str = "openvino") -> Prepared:
    ssh = {"host": "127.0.0.1", "port": 1, "connect_timeout_s": 2, "python": sys.executable}
    devices = {"far": {"runtime": runtime, "ssh": ssh}}
    (folder / "devices.yaml").write_text(yaml.safe_dump({"devices": devices}))
    return Prepared(read_recipe(write_recipe(folder, targets=["far"], budgets={})), folder)


@needs_vnni
@pytest.mark.parametrize(("flags", "limit"), [("fpu avx2", 64), ("fpu avx2 avx_vnni", 127)])
def test_a_device_over_ssh_says_what_its_own_cpu_bears(
    flags: str, limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor : 0\nflags : {flags}\n")
    ssh = tmp_path / "bin" / "ssh"  # whatever the host is, the agent that answers is on a machine of this CPU
    ssh.parent.mkdir()
    values = {
        "python": sys.executable,
        "root": str(Path(__file__).parents[3]),
        "cpuinfo": str(tmp_path / "cpuinfo"),
    }
    ssh.write_text(AGENT_OF_ANOTHER_CPU.format(**values))
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", os.pathsep.join([str(ssh.parent), os.environ["PATH"]]))
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # the lease of its CPU is nobody else's
    scheme = scheme_with_a_device_over_ssh(tmp_path).scheme
    assert (scheme.weight_limit, scheme.because) == (limit, "")


@needs_vnni
def test_weights_are_safe_for_every_cpu_where_a_device_does_not_answer(tmp_path: Path) -> None:
    prepared = scheme_with_a_device_over_ssh(tmp_path)
    assert prepared.scheme.weight_limit == 64
    data, model = prepared.read()
    [quantize] = prepared.recipe.passes
    plan = quantize.plan(model, prepared.context(data))
    assert "weights at most 64 (far does not tell whether its CPU has VNNI)" in " ".join(plan.notes)


def test_a_runtime_that_does_not_saturate_is_not_asked(tmp_path: Path) -> None:
    assert scheme_with_a_device_over_ssh(tmp_path, "tensorrt").scheme.weight_limit == FULL


def test_what_a_pass_by_latency_depends_on_is_how_and_where_layers_are_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "devices.yaml").write_text("devices:\n  sim: { runtime: fake }\n")

    def measured_on(*passes: object, batch: int = 1) -> str:
        gates = {"gates": {"cost": "latency"}}
        recipe = write_recipe(
            tmp_path, targets=["sim"], budgets={}, passes=[gates, *passes], measure={"batch": batch}
        )
        prepared = Prepared(read_recipe(recipe), tmp_path)
        return prepared.context(prepared.data()).measured_on

    told = measured_on("quantize")
    assert told == measured_on("quantize") != ""
    others = [
        measured_on(),
        measured_on("quantize", batch=2),
        measured_on({"quantize": {"keep_float": ["head"]}}),
        measured_on({"quantize": {"softmax_sqnr_db": 20}}),
    ]
    facts = FakeDevice.facts
    monkeypatch.setattr(FakeDevice, "facts", lambda self: replace(facts(self), version="another"))
    others.append(measured_on("quantize"))
    assert len({told, *others}) == 6


def test_a_pass_is_told_what_the_recipe_is_measured_with(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, targets=[ONNXRUNTIME], measure={"batch": 4})
    prepared = Prepared(read_recipe(recipe), tmp_path)
    context = prepared.context(prepared.data())
    assert (context.ends_in, context.batch) == ("int8", 4)
    assert context.machines == {ONNXRUNTIME: cpu_model()}


def test_a_cost_in_milliseconds_without_a_device_is_refused_before_any_work(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, passes=[{"gates": {"cost": "latency"}}], targets=[ABSENT])
    prepared = Prepared(read_recipe(recipe), tmp_path)
    _, model = prepared.read()
    with pytest.raises(
        DeviceUnavailableError, match="pass gates: cost: latency is measured on one of the recipe's"
    ):
        prepared.refuse_impossible(model)
