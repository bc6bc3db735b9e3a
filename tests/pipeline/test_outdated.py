"""A run takes away what an earlier one left in its folder, and nothing that it is to read."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from edgepress.errors import CompressError
from edgepress.pipeline.recipe.file import read_recipe
from edgepress.pipeline.run import compress
from small_run import ONNXRUNTIME, write_recipe

SOURCE = {"source": "small_network:net"}
LATENCY = {"cost": "latency", "table": "runs/half/run.json"}


@pytest.fixture
def half(tmp_path: Path) -> Path:
    """A recipe's folder, with what a run has left in runs/half."""
    write_recipe(tmp_path)
    half = tmp_path / "runs" / "half"
    half.mkdir(parents=True)
    for name in ("pruned.safetensors", "pruned-0.5.safetensors"):
        shutil.copy(tmp_path / "net.safetensors", half / name)
    for name in ("run.json", "model.onnx", "packed.safetensors"):
        (half / name).write_text("the only copy")
    (tmp_path / "link.safetensors").symlink_to(half / "pruned.safetensors")
    return half


CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "weights": (
        "model.weights", "pruned.safetensors", {"model": {**SOURCE, "weights": "runs/half/pruned.safetensors"}}
    ),
    "a link to weights": (
        "model.weights", "pruned.safetensors", {"model": {**SOURCE, "weights": "link.safetensors"}}
    ),
    "a file that is written over": ("model.source", "model.onnx", {"model": {"source": "runs/half/model.onnx"}}),
    "a student": (
        "passes[0].student.weights",
        "pruned-0.5.safetensors",
        {"passes": [{"distill": {"student": {**SOURCE, "weights": "runs/half/pruned-0.5.safetensors"}}}]},
    ),
    "a teacher": (
        "passes[0].teachers[0].weights",
        "packed.safetensors",
        {"passes": [{"distill": {"teachers": [{**SOURCE, "weights": "runs/half/packed.safetensors"}]}}]},
    ),
    "a table": ("passes[0].table", "run.json", {"passes": [{"gates": LATENCY}]}),
    "an argument of the data": (
        "data.args.path",
        "model.onnx",
        {"data": {"source": "small_network:data", "args": {"path": "runs/half/model.onnx"}}},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_run_into_the_folder_of_what_it_reads_is_refused_before_anything_is_gone(
    case: str, half: Path
) -> None:
    place, lost, sections = CASES[case]
    recipe = write_recipe(half.parents[1], targets=[ONNXRUNTIME], **sections)
    before = {path.name: path.read_bytes() for path in half.iterdir()}
    for given in (recipe, read_recipe(recipe)):
        if case == "an argument of the data" and given is not recipe:
            continue  # relative to nothing that is known
        with pytest.raises(CompressError) as caught:
            compress(given, half, fresh=True)
        assert str(caught.value).startswith(f"{place}: {half / lost} is needed")
        assert "name another folder with -o" in str(caught.value)
        assert {path.name: path.read_bytes() for path in half.iterdir() if path.name != ".lock"} == before


def test_what_an_earlier_run_left_is_gone_when_the_next_one_fails(half: Path) -> None:
    source = {"source": "small_network:none", "weights": "net.safetensors"}
    recipe = write_recipe(half.parents[1], targets=[ONNXRUNTIME], model=source)
    with pytest.raises(CompressError, match="none"):
        compress(recipe, half)
    assert [path.name for path in half.glob("*.*") if path.is_file() and path.name != ".lock"] == [
        "model.onnx"
    ]
