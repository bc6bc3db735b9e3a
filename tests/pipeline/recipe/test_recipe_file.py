"""Reading recipes: what a good one means, where its files are; template and reference cannot drift."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from edgepress.form import FLOAT, Form
from edgepress.passes import PASSES
from edgepress.passes.order import order_problem
from edgepress.pipeline.budgets import Budgets
from edgepress.pipeline.budgets.metric_drop import MetricDrop
from edgepress.pipeline.recipe.file import (
    TARGET_OPTIONS,
    RecipeError,
    read_recipe,
    recipe_text_of,
)
from edgepress.pipeline.recipe.reference import option_reference
from edgepress.pipeline.recipe.sections import (
    DataSection,
    ExportSection,
    ImagePreprocessing,
    MeasureSection,
    ModelSection,
    Recipe,
    TargetSection,
)
from edgepress.pipeline.recipe.template import template
from edits import replaced
from pydantic import BaseModel, ValidationError
from recipes import DIGITS, recipe_text

MINIMAL = """\
model: {source: edgepress.examples.digits.models:cnn}
data: {source: edgepress.examples.digits.data:digits}
targets: [onnxruntime]
"""
SECTIONS = (
    ModelSection,
    DataSection,
    ImagePreprocessing,
    Budgets,
    TargetSection,
    ExportSection,
    MeasureSection,
)


def read(folder: Path, text: str, name: str = "recipe.yaml") -> Recipe:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return read_recipe(path)


def complaint(folder: Path, text: str) -> str:
    with pytest.raises(RecipeError) as caught:
        read(folder, text)
    return str(caught.value).replace(f"{folder}/", "")


# What must be left alone.


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        pytest.param("", "name", "recipe", id="the name defaults to the file's"),
        pytest.param("name: solar cells", "name", "solar cells", id="a given name stays"),
        pytest.param("", "passes", (), id="no passes: build and measure the float model"),
        pytest.param("passes:", "passes", (), id="a list with every entry commented out"),
        pytest.param("budgets:\n  # bytes: 1 MB", "budgets", Budgets(), id="a section all commented out"),
        pytest.param("seed: 7", "seed", 7, id="a seed"),
        pytest.param("metric: top5", "metric", "top5", id="top-k"),
        pytest.param("metric: my.metrics:f1", "metric", "my.metrics:f1", id="a named metric"),
    ],
)
def test_reads(tmp_path: Path, text: str, field: str, value: object) -> None:
    assert getattr(read(tmp_path, MINIMAL + text + "\n"), field) == value


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        pytest.param("latency", "{onnxruntime: 5 ms}", {"onnxruntime": 5.0}, id="milliseconds"),
        pytest.param("latency", "{onnxruntime: 800us}", {"onnxruntime": 0.8}, id="microseconds, no space"),
        pytest.param("latency", "{onnxruntime: 2.5 µs}", {"onnxruntime": 0.0025}, id="micro sign"),
        pytest.param("latency", "{onnxruntime: 0.1 s}", {"onnxruntime": 100.0}, id="seconds"),
        pytest.param("latency", "{onnxruntime: 5}", {"onnxruntime": 5.0}, id="a bare number is milliseconds"),
        pytest.param("speedup", "{onnxruntime: 1e-1}", {"onnxruntime": 0.1}, id="1e-1 is a number"),
        pytest.param("bytes", "1.5 MiB", 1_572_864, id="binary megabytes"),
        pytest.param("bytes", "500 kB", 500_000, id="decimal kilobytes"),
        pytest.param("bytes", "1234", 1234, id="a bare number is bytes"),
        pytest.param("metric_drop", "0.5 points", MetricDrop(fraction=0.005), id="points of the metric"),
        pytest.param("metric_drop", "1 %", MetricDrop(fraction=0.01, relative=True), id="relative"),
        pytest.param("metric_drop", "0 points", MetricDrop(fraction=0.0), id="no drop at all"),
    ],
)
def test_budgets_have_units(tmp_path: Path, key: str, text: str, value: object) -> None:
    recipe = read(tmp_path, f"{MINIMAL}budgets: {{{key}: {text}}}\n")
    assert getattr(recipe.budgets, key) == (pytest.approx(value) if isinstance(value, dict) else value)


def test_targets_take_options_below_their_name(tmp_path: Path) -> None:
    text = replaced(MINIMAL, "[onnxruntime]", "") + (
        "  - openvino:CPU\n"
        "  - onnxruntime:\n"
        "  - openvino:GPU.0:\n"
        "      threads: 4\n"
        "  - tensorrt: {compute_capabilities: [SM86, SM89], required: true}\n"
    )
    assert read(tmp_path, text).targets == (
        TargetSection(runtime="openvino", device="CPU"),
        TargetSection(runtime="onnxruntime"),
        TargetSection(runtime="openvino", device="GPU.0", threads=4),
        TargetSection(runtime="tensorrt", compute_capabilities=("SM86", "SM89"), required=True),
    )


@pytest.mark.parametrize("written", ["quantize", "{quantize: }", "{quantize: {}}"])
def test_a_pass_without_options_has_its_defaults(tmp_path: Path, written: str) -> None:
    assert read(tmp_path, f"{MINIMAL}passes: [{written}]\n").passes == (PASSES["quantize"](),)


def test_pass_options_are_its_fields(tmp_path: Path) -> None:
    recipe = read(tmp_path, f"{MINIMAL}passes:\n  - quantize:\n      ranges: entropy\n")
    assert recipe.passes == (PASSES["quantize"].model_validate({"ranges": "entropy"}),)
    assert recipe.model_dump()["passes"][0]["ranges"] == "entropy"


def test_a_wrong_pass_option_is_placed_and_a_close_name_suggested(tmp_path: Path) -> None:
    found = complaint(
        tmp_path, f"{MINIMAL}passes:\n  - quantize:\n      ranges: entropie\n      rangs: mse\n"
    ).split("\n")
    assert found[0].startswith("recipe.yaml:6:15: passes[0].quantize.ranges: expected one of ")
    assert found[0].endswith("got 'entropie'; did you mean 'entropy'?")
    assert found[1].startswith(
        "recipe.yaml:7:7: passes[0].quantize: unknown key 'rangs'; did you mean 'ranges'?"
    )
    assert len(found) == 2


def test_windows_line_ends_and_a_byte_order_mark_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "notepad.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + replaced(MINIMAL, "\n", "\r\n").encode() + b"seed: x\r\n")
    with pytest.raises(RecipeError, match=r"notepad\.yaml:4:7: seed: expected a whole number"):
        read_recipe(path)


def test_aliases_may_repeat_a_value(tmp_path: Path) -> None:
    text = replaced(MINIMAL, "[onnxruntime]", "[openvino:CPU, onnxruntime]")
    recipe = read(tmp_path, text + "budgets: {latency: {openvino:CPU: &most 5 ms, onnxruntime: *most}}\n")
    assert recipe.budgets.latency == {"openvino:CPU": 5.0, "onnxruntime": 5.0}


def test_dates_in_arguments_stay_text(tmp_path: Path) -> None:
    text = replaced(MINIMAL, "models:cnn}", "models:cnn, args: {released: 2024-05-01, '<<': base}}")
    assert read(tmp_path, text).model.args == {"released": "2024-05-01", "<<": "base"}


# Files.


def test_files_are_relative_to_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "recipes").mkdir()
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    (tmp_path / "net.pt").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    text = "model: {source: a.b:net, weights: ../net.pt}\ndata: {source: ../photos}\ntargets: [onnxruntime]\n"
    (tmp_path / "recipes" / "r.yaml").write_text(text)
    recipe = read_recipe(Path("recipes/r.yaml"))
    assert recipe.model.weights == tmp_path / "net.pt"
    assert recipe.data.source == str(tmp_path / "photos")
    assert recipe.model.source == "a.b:net"


def test_a_model_file_is_found_and_has_no_other_weights(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(b"")
    (tmp_path / "samples.npz").write_bytes(b"")
    text = "model: {source: net.onnx}\ndata: {source: samples.npz}\ntargets: [onnxruntime]\n"
    recipe = read(tmp_path, text)
    assert (recipe.model.source, recipe.data.source) == (
        str(tmp_path / "net.onnx"),
        str(tmp_path / "samples.npz"),
    )
    assert complaint(tmp_path, replaced(text, "net.onnx", "net.onnx, weights: net.onnx")) == (
        "recipe.yaml:1:36: model.weights: a .pt2 or .onnx file is the whole model: remove this key"
    )


def test_package_files_are_found(tmp_path: Path) -> None:
    assert DIGITS["weights"] == "package:edgepress.examples.digits/cnn.safetensors"
    recipe = read(tmp_path, recipe_text(model=DIGITS))
    assert recipe.model.weights is not None
    assert recipe.model.weights.is_absolute() and recipe.model.weights.is_file()


def test_the_text_of_a_recipe_is_kept_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("# Zürich\n" + MINIMAL, encoding="utf-8")
    assert recipe_text_of(path) == "# Zürich\n" + MINIMAL


# Several problems, and cross checks.


def test_every_problem_is_reported_in_file_order(tmp_path: Path) -> None:
    found = complaint(
        tmp_path,
        "seed: -1\n"
        + MINIMAL
        + "budgets:\n  latency: {onnxruntim: 5 ms}\n  bytes: huge\nexport: {opset: 17}\n",
    )
    assert [line.split(" ")[0] for line in found.split("\n")] == [
        "recipe.yaml:1:7:",
        "recipe.yaml:6:13:",
        "recipe.yaml:7:10:",
        "recipe.yaml:8:17:",
    ]


def test_a_misspelt_target_does_not_make_its_budget_wrong_too(tmp_path: Path) -> None:
    text = recipe_text(targets=["onnxrutime"], budgets={"latency": {"onnxruntime": "5 ms"}})
    told = complaint(tmp_path, text)
    assert "unknown target 'onnxrutime'; did you mean 'onnxruntime'?" in told and "\n" not in told


@pytest.mark.parametrize("name", ["../../etc", "a\\b", "..", '"a\\nb"'])
def test_a_name_cannot_leave_its_folder(tmp_path: Path, name: str) -> None:
    assert "name: expected at most 100 characters, without /" in complaint(
        tmp_path, f"{MINIMAL}name: {name}\n"
    )


@pytest.mark.parametrize(
    ("preprocess", "means"),
    [
        pytest.param({"size": 64}, 3, id="defaults are for colour"),
        pytest.param({"channels": 1, "mean": [0.5], "std": [0.5]}, 1, id="grey with its own numbers"),
    ],
)
def test_preprocessing_has_one_number_per_channel(
    tmp_path: Path, preprocess: dict[str, object], means: int
) -> None:
    text = recipe_text(data={"source": "a.b:data", "preprocess": preprocess})
    assert len(read(tmp_path, text).data.preprocess.mean) == means


def test_three_means_for_grey_images_are_refused(tmp_path: Path) -> None:
    text = recipe_text(data={"source": "a.b:data", "preprocess": {"channels": 1}})
    assert "data.preprocess: expected mean and std with one value for each channel" in complaint(
        tmp_path, text
    )


class NeverAfterQuantize(PASSES["quantize"]):  # type: ignore[name-defined,misc]
    """A pass of somebody else, whose place in an order follows from what it takes and leaves."""

    name = "prune"

    @property
    def takes(self) -> frozenset[Form]:
        return FLOAT

    def leaves(self, taken: Form) -> Form:
        return taken


def test_a_pass_says_what_it_cannot_follow() -> None:
    quantize, prune = PASSES["quantize"](), NeverAfterQuantize()
    assert order_problem(prune, []) is None
    assert order_problem(quantize, [prune]) is None
    assert order_problem(prune, [quantize]) == (
        "the network is already quantized here, by the quantize above: list prune before it"
    )
    assert order_problem(quantize, [prune, quantize]) == (
        "the network is already quantized here, by the quantize above: list it once"
    )


# The template and the reference.


def test_the_template_validates_as_it_is(tmp_path: Path) -> None:
    recipe = read(tmp_path, template(), "mine.yaml")
    assert recipe.name == "mine"
    assert [p.name for p in recipe.passes] == ["quantize"]
    assert [t.label for t in recipe.targets] == ["openvino:CPU", "onnxruntime"]
    assert recipe.budgets.metric_drop == MetricDrop(fraction=0.01)


def test_the_template_validates_with_every_option_set(tmp_path: Path) -> None:
    every, count = re.subn(r"(?m)^(\s*)#(?=[^\s#])", r"\1", template())
    assert count > 20
    alone = dict.fromkeys(PASSES, every)
    for name in PASSES:
        for other in set(PASSES) - {name}:
            alone[name] = without_pass(other, alone[name])
    recipe = read(tmp_path, alone["quantize"])
    assert read(tmp_path, alone["distill"]).passes == (PASSES["distill"](),)
    assert read(tmp_path, alone["l2"]).passes == (PASSES["l2"](),)
    assert recipe.name == "my-network"
    assert recipe.targets[-1].compute_capabilities == ("SM86", "SM89")
    assert recipe.passes[0] == PASSES["quantize"]()
    for section in SECTIONS:
        for name in options_of(section):
            assert re.search(rf"(?m)^ *{name}:", every), f"{section.__name__}.{name}"


def options_of(section: type[BaseModel]) -> list[str]:
    """What a recipe may say there; a target's other fields are for devices.yaml."""
    fields = list(section.model_fields)
    found = [name for name in fields if name in TARGET_OPTIONS] if section is TargetSection else fields
    assert found
    return found


def without_pass(name: str, text: str) -> str:
    """A recipe without one of its passes: some cannot stand in one recipe."""
    left, count = re.subn(rf"(?m)^  - {name}:\n(      .*\n)*", "", text)
    assert count == 1
    return left


def test_the_template_takes_the_users_own_model(tmp_path: Path) -> None:
    (tmp_path / "cells: final.pt").write_bytes(b"")
    recipe = read(tmp_path, template("my.nets:net", "cells: final.pt", "my.data:parts"))
    assert recipe.model.weights == tmp_path / "cells: final.pt"
    assert (recipe.model.source, recipe.data.source) == ("my.nets:net", "my.data:parts")


def test_every_option_is_explained() -> None:
    for section in (*SECTIONS, MetricDrop, Recipe, *PASSES.values()):
        for name, field in section.model_fields.items():
            assert field.description, f"{section.__name__}.{name} has no docstring below it"


def test_the_reference_lists_every_option_with_its_range() -> None:
    reference = option_reference()
    assert "| `opset` | a whole number, 18 to 20 | `19` | ONNX operator set. |" in reference
    assert "| `source` | text | required | `pkg.module:factory`, `timm:NAME`," in reference
    for heading in (
        "# The recipe",
        "## `model`",
        "## `data.preprocess`",
        "## `budgets`",
        "## Pass `quantize`",
    ):
        assert f"{heading}\n" in reference
    for section in (*SECTIONS, Recipe, *PASSES.values()):
        for name in options_of(section):
            assert f"| `{name}` |" in reference, f"{section.__name__}.{name}"


def test_the_networks_of_a_pass_are_found_beside_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "student.safetensors").write_bytes(b"")
    options = "{student: {source: 'nets:small', weights: student.safetensors}}"
    recipe = read(tmp_path, f"{MINIMAL}passes: [{{distill: {options}}}]\n")
    assert recipe.passes[0].networks()[0].files() == [tmp_path / "student.safetensors"]


def test_the_latency_table_of_gates_is_found_beside_the_recipe(tmp_path: Path) -> None:
    text = f"{MINIMAL}passes: [{{gates: {{cost: latency, table: cpu.json}}}}]\n"
    # It need not be there yet: the command that measures it reads the recipe too.
    assert read(tmp_path, text).passes[0].files() == (tmp_path / "cpu.json",)


def test_a_network_of_a_pass_that_is_not_there_is_told(tmp_path: Path) -> None:
    options = "{teachers: [{source: 'nets:large', weights: large.pt}]}"
    told = complaint(tmp_path, f"{MINIMAL}passes: [{{distill: {options}}}]\n")
    assert "passes[0].distill.teachers[0].weights: no such file: large.pt" in told


def test_a_recipe_in_python_lists_a_target_once_too() -> None:
    sections = {"model": {"source": "a:b"}, "data": {"source": "a:c"}}
    with pytest.raises(
        ValidationError, match="openvino:CPU is listed twice: budgets and reports name a target once"
    ):
        Recipe.model_validate({**sections, "targets": [{"runtime": "openvino", "device": "CPU"}] * 2})
