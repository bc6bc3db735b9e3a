"""The pass `gates`: what it leaves alone and refuses, the target that it meets, and the network that it leaves."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from edgepress.errors import CompressError
from edgepress.form import Form
from edgepress.model import Model
from edgepress.passes.base import PassPlan, PassResult
from edgepress.passes.channels.removal import Skipped
from edgepress.passes.gates import Gates
from edgepress.passes.training.options import TrainingOptions
from slim_job import context_in, trained_cnn
from torch import nn

FAST: dict[str, Any] = {"gate_epochs": 1, "training": {"epochs": 1, "batch": 16, "lr": 1e-4}}


def model() -> Model:
    return Model(trained_cnn().eval(), (torch.zeros(1, 1, 32, 32),))


def pruned(scratch: Path, **options: Any) -> PassResult:
    return Gates.model_validate(FAST | options).apply(model(), context_in(scratch))


def test_a_network_of_which_nothing_may_go_is_refused_with_the_reasons(tmp_path: Path) -> None:
    with pytest.raises(CompressError) as told:
        pruned(tmp_path, keep=["*"])
    assert str(told.value).startswith("gates: nothing can be removed: ")
    assert "stem.0" in str(told.value) and ": named by `keep`" in str(told.value)
    assert str(told.value).endswith("; leave out the pass, or let more be removed (kinds, only, keep)")


def test_why_nothing_can_be_removed_is_known_without_data() -> None:
    chosen = Gates.model_validate({})
    assert chosen.why_not(model()) == ""
    recurrent = Model(nn.LSTM(4, 4, batch_first=True), (torch.zeros(1, 3, 4),))
    assert chosen.why_not(recurrent).startswith("nothing can be removed: ")


def test_a_target_that_cannot_be_met_is_refused_with_the_least_that_can(tmp_path: Path) -> None:
    with pytest.raises(
        CompressError, match=r"gates: target: 0\.05 of the macs cannot be reached: .* is left"
    ):
        pruned(tmp_path, target=0.05, least=0.5)


@pytest.mark.parametrize(
    "options",
    [
        {"targets": [0.8, 0.01], "gate_epochs": 1},
        {"targets": [0.8, 0.01], "method": "solver"},
        {"elastic": [1.0, 0.8, 0.01]},
    ],
)
def test_a_target_out_of_reach_is_refused_before_anything_trains(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    chosen = Gates.model_validate({"training": FAST["training"]} | options)
    with pytest.raises(
        CompressError, match=r"gates: target: 0\.01 of the macs cannot be reached: .* is left"
    ):
        chosen.apply(model(), context_in(tmp_path))
    assert not any(tmp_path.rglob("*"))


@pytest.mark.parametrize("cost", ["params", "macs"])
def test_the_target_is_met_and_the_plan_alone_gives_the_network_again(tmp_path: Path, cost: str) -> None:
    original = model()
    before = {name: tensor.clone() for name, tensor in original.module.state_dict().items()}
    chosen, context = Gates.model_validate(FAST | {"cost": cost, "round_to": 2}), context_in(tmp_path)
    result = chosen.apply(original, context)
    whole, left = (getattr(each.facts(), cost) for each in (original, result.model))
    # Within 1 %, or where whole steps of such a small network come no nearer, with a word on it.
    assert left / whole <= 0.5
    assert left / whole >= 0.495 or [note for note in result.notes if note.startswith("target: ")]
    assert all(torch.equal(before[name], tensor) for name, tensor in original.module.state_dict().items())
    stored = replace(result.plan, structure=json.loads(json.dumps(result.plan.structure)))
    again = chosen.rebuild(model(), stored, context)
    assert (again.form, result.model.form) == (Form.MODULES, Form.MODULES)
    x = torch.randn(4, 1, 32, 32)
    assert torch.equal(again.run(x)[0], result.model.run(x)[0])


def test_one_training_leaves_a_network_for_each_target_and_says_what_it_is_worth(tmp_path: Path) -> None:
    result = pruned(tmp_path, targets=[0.8, 0.6])
    told = json.loads(json.dumps(result.plan.details))["gates"]
    assert [row["target"] for row in told["series"]] == [0.8, 0.6]
    for row in told["series"]:
        assert 0.99 * row["target"] <= row["share"] <= row["target"]
        assert 0 <= row["metric"] <= 1 and row["kl"] >= 0 and 0 <= row["agreement"] <= 1
    facts = result.model.facts()
    assert (told["series"][-1]["params"], told["series"][-1]["macs"]) == (facts.params, facts.macs)
    widths = {layer["name"]: layer["outputs"] for layer in told["layers"]}
    for name, layer in result.model.module.named_modules():
        if isinstance(layer, nn.Conv2d):
            assert widths[name] == [model().module.get_submodule(name).out_channels, layer.out_channels]


def test_the_solver_decides_without_training(tmp_path: Path) -> None:
    chosen = Gates(method="solver", training=TrainingOptions(epochs=0))
    result = chosen.apply(model(), context_in(tmp_path))
    assert result.model.facts().macs <= 0.5 * model().facts().macs  # type: ignore[operator]
    assert "training" not in result.plan.details or not result.plan.details["training"]
    # Half of the multiply-accumulates went, and what is left was refitted alone: digits are easy.
    assert result.plan.details["gates"]["series"][0]["metric"] > 0.8


def test_labels_are_not_needed_where_the_network_teaches_itself(tmp_path: Path) -> None:
    context = context_in(tmp_path)
    assert pruned(tmp_path, teacher_weight=1.0, target=0.8).modified
    assert context.scratch == tmp_path


def test_blocks_that_go_hand_on_what_they_are_given(tmp_path: Path) -> None:
    result = pruned(tmp_path, kinds=["block"], target=0.9)
    gone = [name for name, layer in result.model.module.named_modules() if isinstance(layer, Skipped)]
    assert gone == ["blocks.0"] and "blocks removed: blocks.0" in result.notes
    assert isinstance(result.plan, PassPlan)


def test_nested_networks_come_from_one_training_and_the_one_asked_for_goes_on(tmp_path: Path) -> None:
    options = {"training": FAST["training"], "elastic": [1.0, 0.7, 0.5], "target": 0.7}
    result = Gates.model_validate(options).apply(model(), context_in(tmp_path))
    whole = model().facts().macs
    assert whole is not None and list(result.model.siblings) == ["1", "0.5"]
    sizes = {"0.7": result.model, **result.model.siblings}
    for share, found in sizes.items():
        assert 0.9 * float(share) <= found.facts().macs / whole <= 1.01 * float(share)  # type: ignore[operator]
    rows = {row["target"]: row for row in result.plan.details["gates"]["series"]}
    assert [target for target, row in rows.items() if row["chosen"]] == [0.7]
    with pytest.raises(
        ValueError, match=r"target: expected one of the sizes of elastic, \[1\.0, 0\.5\], got 0\.7"
    ):
        Gates(elastic=(1.0, 0.5), target=0.7)
