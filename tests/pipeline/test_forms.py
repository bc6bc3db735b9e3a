"""The form of a model on its way: what it came as, what steps leave, fresh and resumed, and what is refused by it."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
import quantization_nets as nets
import torch
from edgepress.errors import CompressError
from edgepress.form import Form
from edgepress.model import Model
from edgepress.passes.base import Pass, PassContext, PassPlan
from edgepress.passes.distill import Distill
from edgepress.passes.l2 import L2
from edgepress.passes.quantize import Quantize
from edgepress.pipeline.ingest.model import ingest
from edgepress.pipeline.prepare import Prepared
from edgepress.pipeline.recipe.file import RecipeError, read_recipe
from edgepress.pipeline.recipe.sections import ModelSection
from edgepress.pipeline.steps import Step, float_step, pass_step
from edgepress.pipeline.store import Store
from float_pass import FloatPass
from small_run import ONNXRUNTIME, write_recipe
from tiny_onnx import conv_float, conv_qdq
from torch import nn

PLAIN: dict[str, Any] = {"ranges": "minmax", "equalization": "off"}
LEARNING: dict[str, Any] = {"training": {"epochs": 1, "batch": 8}, **PLAIN}
QUANTIZE = Quantize(**PLAIN, bias_correction=False, sensitivity_samples=0)
FLOATING = Distill.model_validate({"weight_bits": "float", "student": {"width": 0.5}, **LEARNING})
FEW_BITS = Distill.model_validate({"weight_bits": 4, **LEARNING})
CODES = L2.model_validate(
    {"ratio": 2, "importance_samples": 8, "transform_epochs": 0, "training": {"epochs": 0}}
)
NO_STUDENT = Distill(weight_bits="float", float_epochs=0)


def network() -> Model:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.ReLU()]
    return nets.model_of(
        nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 3)), 3, 8, 8
    )


def context() -> PassContext:
    return nets.context_of(nets.samples(16, 3, 8, 8), packed_bytes=lambda model: 2000 + len(model.coded))


def steps_of(passes: list[Pass], store: Store) -> list[Step]:
    steps = [float_step(network(), "0" * 64, context(), store)]
    for chosen in passes:
        steps.append(pass_step(steps[-1], chosen, context(), store, {}))
    return steps


LEFT: dict[str, tuple[list[Pass], list[Form]]] = {
    "INT8": ([QUANTIZE], [Form.INT8]),
    "a student, then INT8": ([FLOATING, QUANTIZE], [Form.MODULES, Form.INT8]),
    "four bits": ([FEW_BITS], [Form.INT8]),
    "a student, then codes": ([FLOATING, CODES], [Form.MODULES, Form.CODES]),
    "nothing to do": ([NO_STUDENT, QUANTIZE], [Form.MODULES, Form.INT8]),
}


@pytest.mark.parametrize("case", LEFT)
def test_a_resumed_run_has_the_forms_of_a_fresh_one(case: str, tmp_path: Path) -> None:
    passes, forms = LEFT[case]
    fresh = steps_of(passes, Store(tmp_path))
    resumed = steps_of(passes, Store(tmp_path))
    assert [step.record.cached for step in resumed] == [True] * (1 + len(passes))
    for steps in (fresh, resumed):
        assert [step.model.form for step in steps] == [Form.MODULES, *forms]
    assert [step.model.facts() for step in fresh] == [step.model.facts() for step in resumed]


class Dishonest(FloatPass):
    """Leaves another form than it says."""

    name = "dishonest"

    def rebuild(self, model: Model, plan: PassPlan, context: PassContext) -> Model:
        return model.successor(model.module, Form.INT8)


def test_a_pass_that_leaves_another_form_than_it_promised_is_told(tmp_path: Path) -> None:
    with pytest.raises(
        CompressError, match="dishonest: it says that of modules it leaves modules, and it left int8"
    ):
        steps_of([Dishonest()], Store(tmp_path))


def test_a_step_is_refused_what_its_pass_does_not_take(tmp_path: Path) -> None:
    before = replace(network(), form=Form.INT8)
    store = Store(tmp_path)
    with pytest.raises(
        CompressError, match="pass quantize: the network is quantized already, and passes need"
    ):
        pass_step(float_step(before, "0" * 64, context(), store), QUANTIZE, context(), store, {})


def save(file: onnx.ModelProto, path: Path) -> None:
    onnx.save(onnx.shape_inference.infer_shapes(file), path)  # a whole file says the shapes of its outputs


def read(path: Path) -> Model:
    return ingest(ModelSection(source=str(path)))


def test_what_a_network_came_as(tmp_path: Path) -> None:
    x = (torch.randn(2, 3, 8, 8),)
    program = torch.export.export(network().module, x, dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    torch.export.save(program, tmp_path / "net.pt2")
    assert read(tmp_path / "net.pt2").form is Form.GRAPH
    save(conv_qdq(), tmp_path / "int8.onnx")
    assert read(tmp_path / "int8.onnx").form is Form.INT8
    pytest.importorskip("onnx2torch")
    save(conv_float(), tmp_path / "float.onnx")
    assert read(tmp_path / "float.onnx").form is Form.MODULES


def test_a_file_that_only_onnxruntime_runs_has_no_modules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx2torch", None)  # as if it were not installed
    save(conv_float(), tmp_path / "float.onnx")
    assert read(tmp_path / "float.onnx").form is Form.GRAPH


def test_a_quantized_file_is_refused_before_any_work_by_its_name_and_how(tmp_path: Path) -> None:
    save(conv_qdq(), tmp_path / "net.onnx")
    prepared = Prepared(read_recipe(write_recipe(tmp_path, targets=[ONNXRUNTIME])), tmp_path)
    with pytest.raises(CompressError) as refused:
        prepared.refuse_impossible(read(tmp_path / "net.onnx"))
    assert str(refused.value) == (
        "pass quantize: net.onnx is quantized already, with Q/DQ (3 DequantizeLinear, 2 QuantizeLinear), and passes"
        " need the float network: give the file that it was made from, or `passes: []` to measure this one as it is"
    )


def test_a_pass_that_needs_modules_is_refused_a_graph_at_its_line(tmp_path: Path) -> None:
    (tmp_path / "net.pt2").write_bytes(b"")
    recipe = write_recipe(
        tmp_path, model={"source": "net.pt2"}, passes=[{"distill": {"student": {"width": 0.5}}}]
    )
    with pytest.raises(RecipeError, match=r"passes\[0\]: the network is one graph of operators, and distill"):
        read_recipe(recipe)
