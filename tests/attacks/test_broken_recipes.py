"""Every broken recipe is refused with all its problems, each at its line and column; nothing in it runs."""

# ruff: noqa: E501 (each complaint on one line, as a user sees it)

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest
from edgepress.errors import ExitCode
from edgepress.pipeline.recipe.file import RecipeError, read_recipe

RECIPES = Path(__file__).parent / "recipes"

EMPTY = "the file is empty; `compress init` writes a recipe to start from"
CODE = "is refused: a recipe is plain data, never code"
DEEP = "nested deeper than 32 levels: this is not a recipe"
TIME = "expected a time such as 5 ms, 800 us or 0.1 s"
SIZE = "expected a size such as 2 MB, 500 kB or 1.5 MiB"
DROP = (
    'expected a drop such as "0.5 points" of a share, "1 %" of the float value, or "0.3 units" of any metric'
)
PLAIN = "expected a plain number (or quotes around text with a colon)"
SEED = "expected a whole number, 0 to 4294967295"
METRIC = "expected top1, topK (such as top5) or pkg.module:function"
TOP_KEYS = "(known: name, model, data, metric, passes, export, targets, measure, budgets, seed)"
TARGET_KEYS = "(known: threads, float_precision, compute_capabilities, required)"
RUNTIMES = "(known: openvino, onnxruntime, tensorrt)"

# File (without .yaml) to its whole complaint; {folder} holds the recipes, {package} is that of edgepress.
# What ends in "..." goes on with the list of passes or options, which grows with every pass.
CASES: dict[str, list[str]] = {
    "bad_names": [
        "1:17: model.source: expected pkg.module:factory, timm:NAME, torchvision:NAME, or a .pt2 or .onnx file, got 'resnet18'",
        "2:16: data.source: expected pkg.module:factory, a folder or an .npz file, and there is no such file: {folder}/__import__('os').system('echo hacked')",
        f"3:9: metric: {METRIC}, got 'top-1'",
    ],
    "bad_units": [
        f"6:26: budgets.latency.onnxruntime: {TIME}, got 'fast'",
        f"7:10: budgets.bytes: {SIZE}, got '2 Tb'",
        f"8:16: budgets.metric_drop: {DROP}, got 0.5",
    ],
    "bad_units_signs": [
        f"6:26: budgets.latency.onnxruntime: {TIME}, got '-5 ms'",
        f"7:10: budgets.bytes: {SIZE}, got '1.2.3 MB'",
        f"8:16: budgets.metric_drop: {DROP}, got '250 points'",
    ],
    "binary": [
        "1:1: byte 0x80 is not UTF-8: save the recipe as UTF-8 text",
    ],
    "budget_for_no_target": [
        "6:13: budgets.latency: unknown target 'openvino:CPUs'; did you mean 'openvino:CPU'? (this recipe's: openvino:CPU, onnxruntime)",
        "7:13: budgets.speedup: unknown target 'tensorrt' (this recipe's: openvino:CPU, onnxruntime)",
        "8:16: budgets.int8_share: unknown target 'openvino'; did you mean 'openvino:CPU'? (this recipe's: openvino:CPU, onnxruntime)",
    ],
    "capabilities_elsewhere": [
        "5:42: targets[0].openvino:CPU.compute_capabilities: only tensorrt builds ahead of time, openvino does not: remove this key",
    ],
    "control_character": [
        "2:8: the character '\\x07' is not allowed in YAML",
    ],
    "custom_tag": [
        f"2:7: data: the tag !include {CODE}",
    ],
    "deep_indent": [
        f"32:63: {DEEP}",
    ],
    "deep_nesting": [
        f"1:39: {DEEP}",
    ],
    "duplicate_key": [
        "7:3: budgets.bytes: this key is given twice (first in line 6)",
    ],
    "duplicate_section": [
        "5:1: model: this key is given twice (first in line 1)",
    ],
    "empty": [
        f"1:1: {EMPTY}",
    ],
    "endless_alias": [
        f"1:61: {DEEP}",
    ],
    "folder_as_weights": [
        "3:12: model.weights: expected a file, and this is a folder: {folder}",
        "4:16: data.source: expected pkg.module:factory, a folder or an .npz file, got 'empty.yaml'",
    ],
    "huge_number": [
        "5:7: seed: expected a number of at most 64 bits",
    ],
    "many_at_once": [
        "1:1: model: this key is required",
        f"1:1: unknown key 'modle'; did you mean 'model'? {TOP_KEYS}",
        "4:24: data.calibration_samples: expected a whole number, at least 1, got 0",
        f"5:9: metric: {METRIC}, got 'accuracy'",
        "7:5: passes[0]: unknown pass 'prune2' (known: ...",
        "9:28: targets[0].onnxruntime.threads: expected a whole number, 0 to 1024, got 'many'",
        f"12:18: budgets.latency.onnxruntime: {TIME}, got 'soon'",
        "13:5: budgets.latency: unknown target 'openvino:CPU' (this recipe's: onnxruntime)",
        "15:1: seed: this key is given twice (first in line 14)",
    ],
    "mapping_as_key": [
        "5:11: budgets: expected plain text as a key, got a mapping",
    ],
    "missing_files": [
        "2:11: model.source: no such file: {folder}/models/cnn.pt2",
        "3:12: model.weights: a .pt2 or .onnx file is the whole model: remove this key",
        "5:11: data.source: expected pkg.module:factory, a folder or an .npz file, and there is no such file: {folder}/images",
    ],
    "missing_sections": [
        "1:1: data: this key is required",
        "1:1: model: this key is required",
        "1:1: targets: this key is required",
    ],
    "no_coercion": [
        f"5:7: seed: {SEED}, got '4'",
        "6:18: measure.pairs: expected a whole number, 2 to 50, got true",
    ],
    "no_targets": [
        "4:10: targets: expected at least 1 in this list, got 0",
    ],
    "not_a_number": [
        "5:34: budgets.speedup.onnxruntime: expected a finite number, got .nan",
    ],
    "not_utf8": [
        "2:10: byte 0xe9 is not UTF-8: save the recipe as UTF-8 text",
    ],
    "null_model": [
        "1:7: model: expected a mapping (key: value), got nothing",
    ],
    "only_comments": [
        f"1:1: {EMPTY}",
    ],
    "odd_numbers": [
        f"2:79: data.calibration_samples: expected a number of at most 100 digits, got '{'9' * 59}...",
        f"4:7: seed: {PLAIN}, got '{'1:' * 29}1...",
        f"5:22: measure.warmup_s: {PLAIN}, got '1_0:5'",
        "5:36: measure.batch: expected a finite number, got 1e999",
        "5:50: measure.pairs: expected a number of at most 64 bits",
        "6:36: budgets.speedup.onnxruntime: expected a finite number, got -.inf",
        f"6:58: budgets.metric_drop: {PLAIN}, got '1:30'",
        "6:91: budgets.int8_share.onnxruntime: expected a finite number, got .NaN",
    ],
    "out_of_range": [
        f"5:7: seed: {SEED}, got -1",
        "7:10: export.opset: expected a whole number, 18 to 20, got 11",
        "8:15: export.ir_version: expected a whole number, 8 to 10, got 14",
        "10:10: measure.pairs: expected a whole number, 2 to 50, got 1",
        "11:15: measure.iterations: expected a whole number, at least 11, got 5",
        "13:29: budgets.int8_share.onnxruntime: expected a number, 0 to 1, got 95",
        "14:26: budgets.speedup.onnxruntime: expected a number, more than 0, got 0",
    ],
    "package_files": [
        "3:12: model.weights: no such file: {package}/examples/digits/absent.safetensors",
        "5:11: data.source: expected package:pkg.name/file, got 'package:edgepress/../../etc/passwd'",
    ],
    "package_not_installed": [
        "3:12: model.weights: the package 'no_such_package_here' is not installed",
    ],
    "pass_items": [
        "3:10: passes[0]: expected a name, or a name with options, got 3",
        "3:13: passes[1]: expected a name, or a name with options, got a list",
        "3:25: passes[2]: expected a name, or a name with options, got a mapping",
        "3:40: passes[3].quantize: expected options (key: value), got 'mse'",
    ],
    "pass_options_beside_name": [
        "4:5: passes[0]: expected one name, got quantize, ranges: indent the options below their name",
    ],
    "pass_twice": [
        "5:5: passes[1]: the network is already quantized here, by the quantize above: list it once",
    ],
    "passes_not_a_list": [
        "3:9: passes: expected a list, got 'quantize'",
    ],
    "python_tag": [
        f"5:7: seed: the tag !!python/object/apply:os.system {CODE}",
    ],
    "python_tag_key": [
        "6:5: budgets: expected plain text as a key, got the tag !!python/name:os.system",
    ],
    "split_above_one": [
        "4:10: data.split: expected fractions that sum to at most 1, and they sum to 1.1",
    ],
    "split_unknown_part": [
        "4:11: data.split: unknown key 'calibraton'; did you mean 'calibration'? (known: train, calibration, validation, test)",
        "4:40: data.split.validation: expected a number, 0 to 1, got 1.2",
    ],
    "split_without_calibration": [
        "4:10: data.split: expected a fraction above 0 for calibration, which every run needs",
    ],
    "surrogate": [
        "5:7: name: half a surrogate pair is not text",
    ],
    "tab_indent": [
        "2:1: a tab cannot indent YAML: use spaces",
    ],
    "tag_alias": [
        f"7:7: seed: the tag !!python/object/apply:os.system {CODE}",
    ],
    "target_options": [
        f"5:16: targets[0].openvino: unknown option 'device' {TARGET_KEYS}",
        f"5:29: targets[0].openvino: unknown option 'treads'; did you mean 'threads'? {TARGET_KEYS}",
        "6:28: targets[1].onnxruntime.threads: expected a whole number, 0 to 1024, got -1",
        "6:49: targets[1].onnxruntime.float_precision: expected 'default' or 'f32', got 'fp32'; did you mean 'f32'?",
        "7:45: targets[2].tensorrt.compute_capabilities[1]: expected a GPU generation such as SM86, got 8.9",
        "7:50: targets[2].tensorrt.compute_capabilities[2]: expected a GPU generation such as SM86, got 'ampere'",
        "7:69: targets[2].tensorrt.required: expected true or false, got 'maybe'",
    ],
    "target_twice": [
        "7:5: targets[2]: openvino:CPU is listed twice: budgets and reports name a target once",
    ],
    "terminal_escape": [
        "5:1: expected plain text as a key, got '\\x1b[31mred'",
        f"6:9: metric: {METRIC}, got '\\x1b[2Jtop1'",
    ],
    "top_level_list": [
        "1:1: expected a recipe (keys such as model: and data:), got a list",
    ],
    "top_level_text": [
        "1:1: expected a recipe (keys such as model: and data:), got 'edgepress.examples.digits.models:cnn'",
    ],
    "two_documents": [
        "5:1: a second document starts here: a recipe is one document",
    ],
    "unclosed_bracket": [
        "5:1: not valid YAML: expected ',' or ']', but got '<stream end>' (while parsing a flow sequence)",
    ],
    "unknown_alias": [
        "4:10: not valid YAML: found undefined alias 'devices'",
    ],
    "unknown_keys": [
        f"1:1: unknown key 'nmae'; did you mean 'name'? {TOP_KEYS}",
        "4:3: model: unknown key 'wieghts'; did you mean 'weights'? (known: source, args, weights, weights_key, input_shape, outputs)",
        "9:3: export: unknown key 'dynamic-batch'; did you mean 'dynamic_batch'? (known: opset, ir_version, dynamic_batch)",
    ],
    "unknown_pass": [
        "4:5: passes[0]: unknown pass 'quantise'; did you mean 'quantize'? (known: ...",
        "6:15: passes[1].quantize.ranges: expected one of ...",
    ],
    "unknown_target": [
        f"5:5: targets[0]: unknown target 'openvno'; did you mean 'openvino'? {RUNTIMES}",
        f"6:5: targets[1]: unknown target 'OpenVINO'; did you mean 'openvino'? {RUNTIMES}",
        f"7:5: targets[2]: unknown target 'tflite' {RUNTIMES}",
        "8:5: targets[3]: expected a device after the colon, as in openvino:CPU, got 'openvino:'",
    ],
    "utf16": [
        "1:1: byte 0xff is not UTF-8: save the recipe as UTF-8 text",
    ],
    "wrong_types": [
        f"5:7: seed: {SEED}, got 'four'",
        "6:17: export.opset: expected a whole number, 18 to 20, got 19.5",
        "6:38: export.dynamic_batch: expected true or false, got 1",
        "7:10: measure: expected a mapping (key: value), got a list",
        "8:7: name: expected text, got 3",
    ],
    "yaml_bomb": [
        "1:16: more than 10000 values, with aliases written out: this is not a recipe",
    ],
}


@pytest.mark.parametrize("name", CASES)
def test_says_all_that_is_wrong_and_where(name: str) -> None:
    path = RECIPES / f"{name}.yaml"
    with pytest.raises(RecipeError) as caught:
        read_recipe(path)
    assert caught.value.exit_code == ExitCode.USAGE_ERROR
    places = {"{folder}": str(RECIPES), "{package}": str(files("edgepress"))}
    expected = [f"{path}:{line}" for line in CASES[name]]
    for mark, folder in places.items():
        expected = [line.replace(mark, folder) for line in expected]
    found = str(caught.value).split("\n")
    assert len(found) == len(expected), found
    for line, wanted in zip(found, expected, strict=True):
        assert line.startswith(wanted[:-3]) if wanted.endswith("...") else line == wanted


def test_every_broken_recipe_has_its_row() -> None:
    assert {path.stem for path in RECIPES.glob("*.yaml")} == set(CASES)


def test_reading_a_recipe_runs_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    """Several of the recipes would print `hacked`, were anything in them evaluated."""
    for name in CASES:
        with pytest.raises(RecipeError):
            read_recipe(RECIPES / f"{name}.yaml")
    assert capfd.readouterr() == ("", "")


def test_a_factory_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "trapped_package"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('imported')")
    (package / "weights.pt").write_bytes(b"")
    monkeypatch.syspath_prepend(str(tmp_path))
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "model: {source: trapped_package.models:net, weights: package:trapped_package/weights.pt}\n"
        "data: {source: trapped_package.data:samples}\n"
        "metric: trapped_package.metrics:score\n"
        "targets: [onnxruntime]\n"
    )
    assert read_recipe(path).model.weights == package / "weights.pt"


def test_a_file_over_a_megabyte_is_not_parsed(tmp_path: Path) -> None:
    path = tmp_path / "huge.yaml"
    path.write_text("seed: 1 #" + "x" * 1_000_000)
    with pytest.raises(RecipeError, match=r"huge.yaml: larger than 1 MB: this is not a recipe$"):
        read_recipe(path)


def test_what_is_not_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"absent.yaml: no such file; `compress init` writes a recipe"):
        read_recipe(tmp_path / "absent.yaml")
    with pytest.raises(RecipeError, match=r": is a folder, not a recipe file; `compress init`"):
        read_recipe(tmp_path)
