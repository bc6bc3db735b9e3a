"""`l2` after `quantize` and `distill`: the file is small, and the engine computes in INT8 what it holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from digits_mlp import model_section
from edgepress.form import Form
from edgepress.passes.l2 import L2
from edgepress.passes.order import order_problem
from edgepress.passes.quantize import Quantize
from edgepress.pipeline.packing.l2z_file import unpack_file
from edgepress.pipeline.run import compress
from edgepress.progress import Silent
from recipes import recipe_text
from small_run import ABSENT

QUICK = {"ranges": "minmax", "equalization": "off", "bias_correction": False, "sensitivity_samples": 0}
CLOSED = {"importance_samples": 64, "transform_epochs": 0, "training": {"epochs": 0}}


def run(folder: Path, first: dict[str, Any], ratio: float, **sections: Any) -> tuple[Path, Any]:
    path = folder / "recipe.yaml"
    text = recipe_text(
        name="small",
        metric="top1",
        passes=[first, {"l2": {"ratio": ratio, **CLOSED}}],
        budgets={"metric_drop": "2 points"},
        measure={"pairs": 2, "iterations": 11},
        **sections,
    )
    path.write_text(text)
    return folder / "run", compress(path, folder / "run", progress=Silent())


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    return run(tmp_path_factory.mktemp("int8"), {"quantize": QUICK}, 10)


def integers(path: Path) -> list[np.ndarray[Any, Any]]:
    """The INT8 weights of a model."""
    return [
        onnx.numpy_helper.to_array(each)
        for each in onnx.load(path).graph.initializer
        if each.data_type == onnx.TensorProto.INT8 and len(each.dims) > 1
    ]


def test_the_file_is_a_tenth_and_unpacks_to_the_int8_graph(small: tuple[Path, Any], tmp_path: Path) -> None:
    folder, record = small
    assert record.verdict == "PASS", record.reason
    size = (folder / "model.l2z").stat().st_size
    assert 0.95 * record.steps[0].bytes / 10 <= size <= record.steps[0].bytes / 10
    unpack_file(folder / "model.l2z", tmp_path / "back.onnx")
    assert (tmp_path / "back.onnx").read_bytes() == (folder / "model.onnx").read_bytes()


def test_weights_are_every_kth_integer_of_their_grid(small: tuple[Path, Any]) -> None:
    folder, _ = small
    steps = [
        int(np.gcd.reduce(np.abs(each.astype(int)), axis=None)) for each in integers(folder / "model.onnx")
    ]
    assert len(steps) > 5 and max(steps) > 2


def test_a_run_that_is_repeated_writes_the_same_file(small: tuple[Path, Any]) -> None:
    folder, _ = small
    before = (folder / "model.l2z").read_bytes()
    again = compress(folder.parent / "recipe.yaml", folder, progress=Silent())
    assert [step.cached for step in again.steps] == [True, True, True]
    assert (folder / "model.l2z").read_bytes() == before


def test_weights_of_four_bits_are_packed_too(tmp_path: Path) -> None:
    distill = {"weight_bits": 4, "ranges": "minmax", "equalization": "off", "training": {"epochs": 0}}
    network = model_section(tmp_path)
    folder, record = run(tmp_path, {"distill": distill}, 9, model=network, targets=[ABSENT])
    assert record.steps[2].bytes == (folder / "model.l2z").stat().st_size <= record.steps[0].bytes / 9
    unpack_file(folder / "model.l2z", tmp_path / "back.onnx")
    assert (tmp_path / "back.onnx").read_bytes() == (folder / "model.onnx").read_bytes()


def test_what_may_stand_where() -> None:
    assert order_problem(L2(), [Quantize()]) is None
    assert (order_problem(L2(), [], Form.INT8) or "").startswith("the network is quantized already")
    assert (order_problem(L2(), [Quantize(), L2()]) or "").endswith("list it once")
