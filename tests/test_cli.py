"""The command line: exit codes, messages, JSON, and what each command prints."""

from __future__ import annotations

import errno
import json
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path

import click
import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from edgepress.cli import Commands, cli
from edgepress.cli.output import debug_option, quiet_stdout
from edgepress.errors import CompressError, DeviceUnavailableError, UnsafeInputError
from edgepress.pipeline.recipe.file import read_recipe
from edgepress.pipeline.run_record import RunRecord
from onnx import TensorProto, helper, numpy_helper
from recipes import recipe_text


def recipe(**sections: object) -> str:
    """A small run whose only promise is the size of its file, 362 kB; `sections` take the place of its own."""
    own = {
        "name": "tiny",
        "measure": {"pairs": 2, "iterations": 11, "warmup_s": 0},
        "budgets": {"bytes": "500 kB"},
    }
    return recipe_text(**{**own, **sections})


def compress(*arguments: object) -> Result:
    result = CliRunner().invoke(cli, [str(a) for a in arguments], prog_name="compress")
    assert "Traceback" not in result.output
    return result


def quantized_gemm(zero_point: int, batch: int | str = "N") -> onnx.ModelProto:
    """x (batch, 16) -> Q/DQ on `zero_point` -> Gemm with int8 weights -> y (batch, 8)."""
    arrays = {
        "scale": np.float32(0.02),
        "zero": np.int8(zero_point),
        "weight": np.arange(128, dtype=np.int8).reshape(16, 8),
        "weight_scale": np.full(8, 0.01, np.float32),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"], "quantize"),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"], "dequantize"),
        helper.make_node("DequantizeLinear", ["weight", "weight_scale"], ["w"], "dequantize_weight", axis=1),
        helper.make_node("Gemm", ["d", "w"], ["y"], "gemm"),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 8])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


@pytest.fixture
def symmetric(tmp_path: Path) -> Path:
    onnx.save(quantized_gemm(0), str(tmp_path / "symmetric.onnx"))
    return tmp_path / "symmetric.onnx"


@pytest.fixture
def asymmetric(tmp_path: Path) -> Path:
    onnx.save(quantized_gemm(3), str(tmp_path / "asymmetric.onnx"))
    return tmp_path / "asymmetric.onnx"


# What every command owes its user


def leaves(group: click.Group, *path: str) -> dict[str, click.Command]:
    """Every command that does something, by how it is called: `gate`, `devices probe`."""
    found = {}
    for name, command in group.commands.items():
        inner = (*path, name)
        if isinstance(command, click.Group):
            found.update(leaves(command, *inner))
        else:
            found[" ".join(inner)] = command
    return found


COMMANDS = leaves(cli)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_is_documented_with_an_example_and_has_json(name: str) -> None:
    text = compress(*name.split(), "--help").output
    assert f"Example:\n    compress {name}" in text
    assert any("--json" in parameter.opts for parameter in COMMANDS[name].params)
    assert len(COMMANDS[name].get_short_help_str(200)) > 20


def test_every_option_says_what_it_does() -> None:
    undocumented = [
        f"{name} {option.opts[0]}"
        for name, command in COMMANDS.items()
        for option in command.params
        if isinstance(option, click.Option) and not option.help
    ]
    assert undocumented == []


def test_the_commands() -> None:
    assert sorted(cli.commands) == [
        "demo", "devices", "doctor", "gate", "history", "init", "inspect", "lint", "pack", "passes", "profile",
        "report", "run", "tabulate", "targets", "unpack",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["init"], ["passes"], ["targets"]], ids=lambda a: a[0]
)
def test_light_commands_do_not_load_torch(arguments: list[str], tmp_path: Path) -> None:
    program = (
        "import sys, edgepress.cli\n"
        f"try: edgepress.cli.cli({arguments!r}, prog_name='compress')\n"
        "except SystemExit as ended: assert not ended.code, ended.code\n"
        "print([m for m in ('torch', 'brevitas', 'onnx') if m in sys.modules], file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "[]"


# Wrong usage: exit code 2 and what to do


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rnu"], "No such command 'rnu'. Did you mean 'run'?"),
        (["run"], "Missing argument 'RECIPE'"),
        (["run", "r.yaml", "--dryrun"], "Did you mean '--dry-run'?"),
        (["run", "none.yaml"], "error: none.yaml: no such file; `compress init` writes a recipe"),
        (["run", "none.yaml", "--dry-run"], "error: none.yaml: no such file"),
        (["run", "."], "is a folder, not a recipe file"),
        (["inspect", "none.onnx"], "error: model: none.onnx does not exist"),
        (["inspect", "timm:test_resnet", "--input-shape", "3x-1"], "whole numbers from 1, as 3x224x224"),
        (["profile", "none.onnx"], "Missing option '-d' / '--device' / '-t' / '--target'"),
        (["profile", "none.onnx", "-t", "onnxruntime"], "error: model: none.onnx does not exist"),
        (["profile", "none.onnx", "-t", "openvin:CPU"], "unknown device 'openvin'; did you mean 'openvino'?"),
        (["profile", "none.onnx", "-t", "openvino:"], "expected a device after the colon"),
        (["profile", "none.onnx", "-t", "openvino", "--pairs", "1"], "1 is not in the range 2<=x<=50"),
        (["lint", "none.onnx"], "error: model: none.onnx does not exist"),
        (["lint", "none.onnx", "--target", "tensorr"], "did you mean 'tensorrt'?"),
        (["report", "none"], "error: none: there is no such folder; name the folder that a run wrote"),
        (["report", "."], "not a run folder, it holds no run.json"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_wrong_usage(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = compress(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stdout == ""


def test_a_file_that_is_no_onnx(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("hello")
    for command in ("profile", "lint"):
        result = compress(command, tmp_path / "text.onnx", "-t", "onnxruntime")
        assert result.exit_code == 2
        assert "text.onnx" in result.stderr


def test_weights_outside_the_model_folder_are_refused(tmp_path: Path) -> None:
    model = quantized_gemm(0)
    tensor = model.graph.initializer[2]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret")
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    for command in ("profile", "lint"):
        result = compress(command, tmp_path / "m.onnx", "-t", "onnxruntime")
        assert result.exit_code == 6
        assert "tensor 'weight' is stored in '../secret', outside the model's own folder" in result.stderr


class RunsCode:
    def __reduce__(self) -> tuple[object, ...]:
        return (print, ("this must not be printed",))


def test_a_pickle_that_holds_code_is_refused(tmp_path: Path) -> None:
    (tmp_path / "w.pt").write_bytes(pickle.dumps({"weight": RunsCode()}))
    result = compress("inspect", tmp_path / "w.pt")
    assert result.exit_code == 6
    assert "w.pt" in result.stderr
    assert "must not be printed" not in result.output


# From an outcome to an exit code


def ending_with(outcome: object) -> click.Group:
    """The group with one command `act`, which raises or returns `outcome`."""
    group = Commands("tool")

    @group.command()
    @debug_option
    def act() -> object:
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    return group


@pytest.mark.parametrize(
    ("outcome", "code", "message"),
    [
        (None, 0, ""),
        (3, 3, ""),
        (CompressError("a.yaml:1:2: wrong"), 2, "error: a.yaml:1:2: wrong\n"),
        (DeviceUnavailableError("no GPU"), 5, "error: no GPU\n"),
        (UnsafeInputError("holds code"), 6, "error: holds code\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), 2, "error: /x: Permission denied\n"),
        (
            OSError(errno.ENOSPC, "No space left on device"),  # which names no place: one of these two
            2,
            f"error: {tempfile.gettempdir()} or {Path.cwd()}: No space left on device; free some, or name a folder"
            " on another disk\n",
        ),
        (ValueError("odd\nthing"), 1, "internal error: ValueError: odd thing, please report\n"),
        (CompressError("layer \x1b[31mred\x1b[0m"), 2, "error: layer <U+001B>[31mred<U+001B>[0m\n"),
    ],
)
def test_outcomes(outcome: object, code: int, message: str) -> None:
    result = CliRunner().invoke(ending_with(outcome), ["act"])
    assert (result.exit_code, result.stdout, result.stderr) == (code, "", message)


def test_a_traceback_of_an_internal_error_only_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGEPRESS_DEBUG", raising=False)
    group = ending_with(ValueError("odd"))
    assert "Traceback" not in CliRunner().invoke(group, ["act"]).stderr
    result = CliRunner().invoke(group, ["act", "--debug"])
    assert result.exit_code == 1
    assert "Traceback" in result.stderr
    assert result.stderr.endswith("internal error: ValueError: odd, please report\n")
    monkeypatch.setenv("EDGEPRESS_DEBUG", "1")
    assert "Traceback" in CliRunner().invoke(group, ["act"]).stderr


def test_an_interrupted_run_says_how_to_continue(tmp_path: Path) -> None:
    (tmp_path / "interrupting.py").write_text("def parts():\n    raise KeyboardInterrupt\n")
    (tmp_path / "r.yaml").write_text(recipe(data={"source": "interrupting:parts"}))
    result = compress("run", tmp_path / "r.yaml", "-o", tmp_path / "out")
    assert result.exit_code == 130
    assert result.stderr.endswith("interrupted; finished steps are kept, continue with --resume\n")


def test_what_a_vendor_library_prints_does_not_get_into_the_json() -> None:
    program = (
        "import os\nfrom edgepress.cli.output import print_json, quiet_stdout\n"
        "with quiet_stdout():\n    os.write(1, b'native\\n'); print('python')\n"
        "print_json({'a': 1})\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {"a": 1}
    assert sorted(done.stderr.split()) == ["native", "python"]


def test_standard_output_comes_back_after_an_error() -> None:
    with pytest.raises(ValueError), quiet_stdout():
        raise ValueError
    assert sys.stdout is not sys.stderr


# init, passes, targets, doctor


def test_init_writes_a_recipe_that_validates_and_never_overwrites(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    result = compress("init", tmp_path)
    assert (result.exit_code, result.stdout) == (0, f"wrote {path}; next: compress run {path}\n")
    assert [p.name for p in read_recipe(path).passes] == ["quantize"]
    path.write_text("mine")
    refused = compress("init", path)
    assert refused.exit_code == 2
    assert refused.stderr == f"error: {path} exists; name another file, or overwrite it with --force\n"
    assert path.read_text() == "mine"
    assert json.loads(compress("init", path, "--force", "--json").stdout)["path"] == str(path)
    assert read_recipe(path).name == "recipe"


def test_init_with_a_network_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    assert compress("init", path, "--model", "timm:resnet18", "--data", "pkg.cells:parts").exit_code == 0
    recipe = read_recipe(path)
    assert (recipe.model.source, recipe.model.weights, recipe.data.source) == (
        "timm:resnet18",
        None,
        "pkg.cells:parts",
    )


def test_passes_shows_every_option_with_default_and_meaning() -> None:
    (quantize,) = [p for p in json.loads(compress("passes", "--json").stdout) if p["name"] == "quantize"]
    options = {o["name"]: o for o in quantize["options"]}
    assert options["ranges"]["default"] == "auto"
    assert options["max_drop"]["default"] is None
    assert all(o["description"] and o["takes"] for o in options.values())
    printed = compress("passes").stdout
    assert all(name in printed for name in options)


def test_targets_and_doctor() -> None:
    listed = json.loads(compress("targets", "--json").stdout)
    grids = {t["name"]: t["activations"] for t in listed["targets"]}
    assert grids["tensorrt"] == "int8 symmetric"
    assert grids["openvino"] == "uint8 asymmetric"
    assert "compute_capabilities" in {o["name"] for o in listed["options"]}
    rows = json.loads(compress("doctor", "--json").stdout)
    assert [row["runtime"] for row in rows] == list(grids)
    for text in (compress("doctor").stdout, compress("targets").stdout):
        assert all(name in text for name in grids)


# pack --error


def test_pack_with_an_error_keeps_the_graph_and_the_promise(tmp_path: Path) -> None:
    """Float weights become codes, INT8 weights every k-th integer; both stay within 1 % of their energy."""
    draw = np.random.default_rng(0)
    weights = {
        "f": draw.standard_normal((64, 64)).astype(np.float32),
        "q": (25 * draw.standard_normal((64, 64))).round().clip(-127, 127).astype(np.int8),
        "s": np.float32(0.01),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "f"], ["h"], "first"),
        helper.make_node("DequantizeLinear", ["q", "s"], ["w"], "dequantize"),
        helper.make_node("MatMul", ["h", "w"], ["y"], "second"),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 64]) for name in ("x", "y")]
    held = [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "two", ends[:1], ends[1:], held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    onnx.save(model, str(tmp_path / "m.onnx"))
    assert compress("pack", tmp_path / "m.onnx", "--error", "1").exit_code == 0
    exact = compress("pack", tmp_path / "m.onnx", "--lossless", "-o", tmp_path / "exact.l2z")
    assert exact.exit_code == 0
    assert 3 * (tmp_path / "m.l2z").stat().st_size < (tmp_path / "exact.l2z").stat().st_size
    compress("unpack", tmp_path / "m.l2z", "-o", tmp_path / "back.onnx")
    back = onnx.load(str(tmp_path / "back.onnx"))
    assert [node.SerializeToString() for node in back.graph.node] == [n.SerializeToString() for n in nodes]
    found = {i.name: numpy_helper.to_array(i) for i in back.graph.initializer}
    for name, before in weights.items():
        assert found[name].dtype == before.dtype
        error = np.square(found[name].astype(float) - before).sum() / np.square(before.astype(float)).sum()
        assert error <= 0.01 and (error > 0.001 or name == "s")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--error", "1", "--lossless"], "--lossless and --error contradict each other"),
        (["--error", "0"], "0.0 is not in the range 0<x<50"),
    ],
    ids=["both", "zero"],
)
def test_pack_options_that_contradict(arguments: list[str], message: str) -> None:
    result = compress("pack", "m.onnx", *arguments)
    assert result.exit_code == 2 and message in result.output


# inspect, lint, profile


def test_inspect_takes_the_input_shape_from_a_recipes_data(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(recipe())
    found = json.loads(compress("inspect", tmp_path / "r.yaml", "--json").stdout)
    assert found["inputs"] == {"input": [1, 1, 32, 32]}
    assert found["params"] == 89_578


def test_inspect_of_a_factory_needs_a_shape_and_takes_one() -> None:
    factory = "edgepress.examples.digits.models:cnn"
    refused = compress("inspect", factory)
    assert refused.exit_code == 2
    assert "model.input_shape" in refused.stderr
    printed = compress("inspect", factory, "--input-shape", "1x32x32")
    assert printed.exit_code == 0
    assert "89,578 parameters" in printed.stdout


def test_lint_of_a_clean_graph(symmetric: Path) -> None:
    result = compress("lint", symmetric, "--target", "tensorrt")
    assert (result.exit_code, result.stdout) == (0, f"tensorrt: {symmetric} is clean\n")


def test_lint_names_the_node_the_problem_and_the_fix(asymmetric: Path) -> None:
    result = compress("lint", asymmetric, "--target", "tensorrt")
    assert result.exit_code == 3
    for word in ("quantize", "refused", "zero point 3"):
        assert word in result.stdout
    document = json.loads(compress("lint", asymmetric, "--json").stdout)
    assert document["clean"] is False
    assert list(document["targets"]) == ["openvino", "onnxruntime", "tensorrt"]
    assert {found["severity"] for found in document["targets"]["tensorrt"]} == {"refused"}
    assert all(found["fix"] for found in document["targets"]["tensorrt"])


def test_profile_prints_what_was_measured_and_why_not(symmetric: Path, tmp_path: Path) -> None:
    result = compress(
        "profile", symmetric, "-t", "onnxruntime", "-t", "openvino:NPX", "--pairs", "2", "--iterations", "11",
        "-o", tmp_path / "out",
    )  # fmt: skip
    assert result.exit_code == 5
    for text in (
        "inputs are random", "latency p50", "not measured: n = 22, it needs 64", "first inference",
        "openvino:NPX", "OpenVINO has no device 'NPX' here",
    ):  # fmt: skip
        assert text in result.stdout
    stored = json.loads((tmp_path / "out" / "profile.json").read_text())
    assert [device["status"] for device in stored["devices"]] == ["run", "unavailable"]


def test_profile_with_another_batch_than_the_models_own(tmp_path: Path) -> None:
    onnx.save(quantized_gemm(0, batch=4), str(tmp_path / "m.onnx"))
    result = compress("profile", tmp_path / "m.onnx", "-t", "onnxruntime", "--batch", "2")
    assert result.exit_code == 2
    assert "batch 2: the model is exported with the fixed batch 4" in result.stderr


# run and report


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """A run without passes whose budget is kept: the file takes 362 kB, and engines are no part of it."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "r.yaml").write_text(recipe())
    return folder, compress("run", folder / "r.yaml", "-o", folder / "out", "--json")


def test_a_run_that_passes(finished: tuple[Path, Result]) -> None:
    folder, result = finished
    assert result.exit_code == 0, result.stderr
    record = RunRecord.model_validate_json(result.stdout)
    assert record.verdict == "PASS"
    assert record == RunRecord.model_validate_json((folder / "out" / "run.json").read_text())
    assert (folder / "out" / "report.html").is_file()


def test_a_broken_budget_is_exit_code_3(finished: tuple[Path, Result]) -> None:
    folder, _ = finished
    (folder / "small.yaml").write_text(recipe(budgets={"bytes": "1 kB"}))
    result = compress("run", folder / "small.yaml", "-o", folder / "out", "--resume")
    assert result.exit_code == 3
    assert "FAIL" in result.stdout
    assert str(folder / "out" / "report.html") in result.stdout


def test_a_dry_run_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yaml").write_text(recipe())
    described = json.loads(compress("run", "r.yaml", "--dry-run", "--json").stdout)
    assert described["model"]["params"] == 89_578
    assert "params: 89578" in compress("run", "r.yaml", "--dry-run").stdout
    assert [path.name for path in tmp_path.iterdir()] == ["r.yaml"]


def test_report_writes_the_reports_again(finished: tuple[Path, Result]) -> None:
    folder, _ = finished
    out = folder / "out"
    for name in ("report.html", "report.md", "junit.xml"):
        (out / name).unlink()
    for named in (out, out / "run.json"):
        result = compress("report", named)
        assert result.exit_code == 0
        assert f"wrote {out / 'report.html'}" in result.stdout
    assert all((out / name).is_file() for name in ("report.html", "report.md", "junit.xml"))
    document = json.loads(compress("report", out, "--json").stdout)
    assert len(document["reports"]) == 3


def test_a_required_device_that_is_not_here(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(recipe(targets=[{"openvino:NPX": {"required": True}}]))
    result = compress("run", tmp_path / "r.yaml", "-o", tmp_path / "out")
    assert result.exit_code == 5
    assert "openvino:NPX is required and not here" in result.stderr
