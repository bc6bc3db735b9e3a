"""Steps: what a pass must keep of a model, and that a pass which does not leaves nothing behind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from edgepress.calibration.data import Part
from edgepress.calibration.metric import NamedMetric
from edgepress.errors import CompressError
from edgepress.model import Model
from edgepress.passes.base import PassContext, PassPlan
from edgepress.pipeline.steps import float_step, pass_step, verify
from edgepress.pipeline.store import Store
from float_pass import FloatPass
from quantization_nets import context_of, samples
from torch import Tensor, nn

Change = Callable[[tuple[Tensor, Tensor]], tuple[Tensor, ...]]


class Scores(nn.Module):
    """Scores of three classes and the class, (batch, 3) floats and (batch,) integers, with a change."""

    def __init__(self, change: Change = lambda outputs: outputs) -> None:
        super().__init__()
        self.head, self._change = nn.Linear(4, 3), change
        with torch.no_grad():
            self.head.weight.copy_(torch.arange(12.0).reshape(3, 4))
            self.head.bias.zero_()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        scores = self.head(x)
        return self._change((scores, scores.argmax(-1)))


def model_with(change: Change = lambda outputs: outputs) -> Model:
    return Model(Scores(change).eval(), (torch.ones(1, 4),), output_names=("scores", "class"))


REFUSED: dict[str, tuple[Change, bool, str]] = {
    "an output less": (
        lambda o: o[:1], True, "the model has 1 outputs after it and had 2 before"
    ),
    "an output more": (
        lambda o: (*o, o[0]), True, "the model has 3 outputs after it and had 2 before"
    ),
    "another shape": (
        lambda o: (o[0].unsqueeze(0), o[1]), True,
        "output 'scores' is torch.float32 (1, 1, 3) after it and was torch.float32 (1, 3) before",
    ),
    "another type": (
        lambda o: (o[0], o[1].int()), True,
        "output 'class' is torch.int32 (1,) after it and was torch.int64 (1,) before",
    ),
    "no numbers": (
        lambda o: (o[0] * float("nan"), o[1]), True, "output 'scores' is not finite after it"
    ),
    "one that overflows": (
        lambda o: (o[0] * 1e38 * 10, o[1]), True, "output 'scores' is not finite after it"
    ),
    "a change that is denied": (
        lambda o: (o[0] + 1e-5, o[1]), False, "it says it changed nothing, and the outputs differ"
    ),
    "another model that is denied": (
        lambda o: o, False, "it says it changed nothing, and returned another model"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_model_that_does_not_fit_is_refused_with_the_pass_and_the_output(case: str) -> None:
    change, modified, told = REFUSED[case]
    with pytest.raises(CompressError) as caught:
        verify("shrink", model_with(), model_with(change), modified)
    assert str(caught.value) == f"pass shrink: {told}"


def test_what_fits_is_let_through() -> None:
    before = model_with()
    verify("shrink", before, before, modified=False)
    verify("shrink", before, model_with(lambda o: (o[0] + 1e-5, o[1])), modified=True)


class Spoiling(FloatPass):
    """Makes the outputs of a layer too large for their type."""

    name = "spoil"

    def plan(self, model: Model, context: PassContext) -> PassPlan:
        return PassPlan({}, {"weight": torch.full((3, 4), 1e38)})

    def rebuild(self, model: Model, plan: PassPlan, context: PassContext) -> Model:
        module = nn.Linear(4, 3)
        module.load_state_dict({"weight": plan.tensors["weight"], "bias": torch.zeros(3)})
        return model.successor(module, model.form)


def test_a_pass_that_spoils_the_model_is_named_and_nothing_of_it_is_kept(tmp_path: Path) -> None:
    context: Any = context_of(samples(8, 4))
    store = Store(tmp_path)
    before = float_step(Model(nn.Linear(4, 3).eval(), (torch.ones(1, 4),)), "float", context, store)
    with pytest.raises(CompressError) as caught:
        pass_step(before, Spoiling(), context, store, {})
    assert str(caught.value) == "pass spoil: output 'logits' is not finite after it"
    entries = [path.name for path in tmp_path.iterdir() if (path / "manifest.json").exists()]
    assert entries == ["float"]


class Reversing(FloatPass):
    """Reverses the order of the classes, which moves every answer but that in the middle."""

    name = "reverse"

    def rebuild(self, model: Model, plan: PassPlan, context: PassContext) -> Model:
        module = nn.Sequential(model.module, Reversed())
        return model.successor(module.eval(), model.form)


class Reversed(nn.Module):
    def forward(self, scores: Tensor) -> Tensor:
        return scores.flip(-1)


class Idle(FloatPass):
    name = "idle"

    def plan(self, model: Model, context: PassContext) -> PassPlan:
        return PassPlan({}, {}, modified=False, notes=("nothing to do",))


def scoring(**options: Any) -> Model:
    torch.manual_seed(0)
    return Model(nn.Linear(4, 3).eval(), (torch.ones(options.pop("batch", 1), 4),), **options)


@pytest.mark.parametrize(
    "options", [{}, {"dynamic_batch": False, "batch": 3}], ids=["any batch", "batches of 3"]
)
def test_every_step_is_compared_with_the_float_model(options: dict[str, Any], tmp_path: Path) -> None:
    part = samples(8, 4)
    context, model = context_of(part), scoring(**options)
    steps = [float_step(model, "float", context, Store(tmp_path))]
    for chosen in (Reversing(), Idle(), Reversing()):
        steps.append(pass_step(steps[-1], chosen, context, Store(tmp_path), {}))
    found = [step.record.fidelity for step in steps]
    assert found[0] is None
    ((inputs, _),) = part.batches(8)
    scores = model.module(*inputs).detach().double()
    log = scores.log_softmax(1)
    expected = (log.exp() * (log - log.flip(1))).sum(1).mean()
    assert found[1] is not None
    assert found[1].agreement == pytest.approx(float((scores.argmax(1) == 1).double().mean()))
    assert found[1].kl == pytest.approx(float(expected), rel=1e-6)  # scores are float32
    assert (found[1].n, found[1].part) == (8, "calibration")
    assert found[2] == found[1]
    assert found[3] is not None
    assert (found[3].agreement, found[3].kl) == (1.0, pytest.approx(0, abs=1e-12))
    again = pass_step(steps[0], Reversing(), context, Store(tmp_path), {})
    assert again.record.cached
    assert again.record.fidelity == found[1]


def test_answers_that_are_no_classes_are_not_compared(tmp_path: Path) -> None:
    part = Part("validation", [(x, torch.tensor(0.5)) for x, _ in samples(8, 4).samples])
    metric = NamedMetric("away", lambda outputs, labels: (outputs[0][:, 0] - labels).abs())
    context = replace(context_of(part), metric=metric)
    before = float_step(scoring(), "float", context, Store(tmp_path))
    assert pass_step(before, Reversing(), context, Store(tmp_path), {}).record.fidelity is None


class Read(Reversing):
    """Reverses, and says that a file decides it, and that latencies do."""

    name = "read"
    table: Path

    def files(self) -> tuple[Path, ...]:
        return (self.table,)

    def by_latency(self) -> bool:
        return True


def test_a_step_is_done_again_when_a_file_of_its_pass_or_the_device_that_it_goes_by_changed(
    tmp_path: Path,
) -> None:
    chosen, store = Read(table=tmp_path / "table.json"), Store(tmp_path / "store")
    context = replace(context_of(samples(8, 4)), measured_on="this one")
    before = float_step(scoring(), "float", context, store)

    def cached(context: PassContext) -> bool:
        return pass_step(before, chosen, context, store, {}).record.cached

    chosen.table.write_text("1")
    assert [cached(context), cached(context)] == [False, True]
    chosen.table.write_text("2")
    assert [cached(context), cached(context)] == [False, True]
    changes: list[dict[str, Any]] = [
        {"measured_on": "another"}, {"ends_in": "float"}, {"batch": 8}, {"machines": {"onnxruntime": "another"}}
    ]  # fmt: skip
    for change in changes:
        assert [cached(replace(context, **change)), cached(context)] == [False, True]
