"""The pass `tokens`: what it drops without a change, the target that it meets, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from edgepress.calibration.data import Part
from edgepress.calibration.samples import ArraySamples
from edgepress.errors import CompressError
from edgepress.examples import digits as digits_example
from edgepress.examples.digits.models import cnn, vit
from edgepress.form import Form
from edgepress.model import Model
from edgepress.passes.base import PassResult
from edgepress.passes.merging.schedule import Schedule
from edgepress.passes.tokens import Tokens
from safetensors.torch import load_file
from slim_job import context_in
from token_nets import built
from torch import nn


def trained_vit() -> Model:
    network = vit()
    network.load_state_dict(load_file(Path(digits_example.__file__).parent / "vit.safetensors"))
    return Model(network.eval(), (torch.zeros(1, 1, 32, 32),))


def compressed(scratch: Path, model: Model | None = None, **options: object) -> PassResult:
    return Tokens.model_validate(options).apply(model or trained_vit(), context_in(scratch))


def schedule_of(result: PassResult) -> Schedule:
    return Schedule.model_validate(result.plan.structure["schedule"])


def test_without_options_what_nothing_reads_is_dropped_and_outputs_stay(tmp_path: Path) -> None:
    model = trained_vit()
    result = compressed(tmp_path, model)
    x = torch.rand(8, 1, 32, 32)
    torch.testing.assert_close(result.model.run(x), model.run(x), rtol=1e-5, atol=1e-5)
    before, after = model.facts().macs, result.model.facts().macs
    assert before is not None and after is not None and after < 0.9 * before
    assert result.model.facts().params == model.facts().params
    assert result.notes == (
        "behind the last attention only the first 1 of 65 tokens count, and the others are dropped there: outputs stay"
        f" as they are, at {after / before:.3f} of the multiply-accumulates",
    )


def test_a_network_that_reads_all_its_tokens_is_left_alone_without_a_target(tmp_path: Path) -> None:
    pooled = Model(built("timm ViT, mean of the patches"), (torch.zeros(1, 3, 32, 32),))
    result = compressed(tmp_path, pooled)
    assert not result.modified and result.model is pooled
    assert result.notes == (
        "all tokens stay: outputs depend on more than leading tokens behind the last block, and no target is given",
    )


class Reads(nn.Module):
    """A ViT whose outputs are made of its tokens by a function."""

    def __init__(self, outputs: Callable[[nn.Module, torch.Tensor], object]) -> None:
        super().__init__()
        self.network, self.outputs = built("timm ViT"), outputs

    def forward(self, x: torch.Tensor) -> object:
        return self.outputs(self.network.head, self.network.forward_features(x))


READERS: dict[str, Callable[[nn.Module, torch.Tensor], object]] = {
    "counts, without a gradient": lambda head, t: (head(t[:, 0]), (t[:, 1:, 0] > 0).sum(1)),
    "a mean that is detached": lambda head, t: (head(t[:, 0]), t.detach().mean(1)),
    "classes of patches": lambda head, t: (head(t[:, 0]), head(t[:, 1:]).argmax(-1)),
    "a split into known sizes": lambda head, t: head(t.split([1, 16], 1)[0][:, 0]),
    "patches times zero": lambda head, t: head(t[:, 0] + 0.0 * t[:, 1:].mean(1)),
}


@pytest.mark.parametrize("name", READERS)
def test_tokens_that_are_needed_in_ways_that_no_gradient_tells_stay(tmp_path: Path, name: str) -> None:
    x = torch.rand(3, 3, 32, 32)
    model = Model(Reads(READERS[name]).eval(), (x,), output_names=("logits", "more"))
    read = context_in(tmp_path)
    part = Part("calibration", ArraySamples((x,), torch.zeros(3).long()))
    context = replace(read, data=replace(read.data, calibration=part, validation=part))
    assert not Tokens().apply(model, context).modified
    fewer = Tokens.model_validate({"target": 0.8, "method": "uniform"}).apply(model, context).model
    assert [y.shape for y in fewer.run(x)] == [y.shape for y in model.run(x)]


@pytest.mark.parametrize("method", ["uniform", "greedy"])
def test_the_target_is_met_and_the_plan_alone_gives_the_network_again(tmp_path: Path, method: str) -> None:
    model, chosen = trained_vit(), Tokens.model_validate({"target": 0.6, "method": method, "start": 0})
    before = {name: tensor.clone() for name, tensor in model.module.state_dict().items()}
    context = context_in(tmp_path)
    result = chosen.apply(model, context)
    whole, left = model.facts().macs, result.model.facts().macs
    assert whole is not None and left is not None and 0.57 * whole <= left <= 0.6 * whole
    assert all(torch.equal(before[name], tensor) for name, tensor in model.module.state_dict().items())
    stored = replace(result.plan, structure=json.loads(json.dumps(result.plan.structure)))
    again = chosen.rebuild(trained_vit(), stored, context)
    x = torch.rand(4, 1, 32, 32)
    assert torch.equal(again.run(x)[0], result.model.run(x)[0])
    assert (again.form, again.removals) == (Form.MODULES, None)
    inputs, _ = context.data.validation.batch(range(50))
    same = result.model.run(*inputs)[0].argmax(1) == model.run(*inputs)[0].argmax(1)
    assert int(same.sum()) >= 45


def test_what_was_searched_is_kept_only_where_it_does_no_worse_than_uniform_on_other_samples(
    tmp_path: Path,
) -> None:
    result = compressed(tmp_path, target=0.5, start=0)
    alike = schedule_of(compressed(tmp_path, target=0.5, start=0, method="uniform"))
    [note] = [note for note in result.notes if note.startswith(("greedy: ", "uniform: "))]
    assert " samples that neither was chosen by the outputs are " in note
    assert (schedule_of(result) == alike) == note.startswith("uniform: ")


def test_how_tokens_are_matched_and_merged_unless_it_is_said() -> None:
    for options, matching, merge, first in (
        ({}, "bipartite", "weighted", 0),
        ({"merge": "soft", "start": 2}, "bipartite", "soft", 2),
        ({"matching": "importance"}, "importance", "mean", 1),
        ({"method": "learned"}, "importance", "mean", 1),
    ):
        chosen = Tokens.model_validate({"target": 0.5, **options})
        assert (chosen.matching_here, chosen.merge_here, chosen.first) == (matching, merge, first)


def test_a_schedule_is_taken_up_again_for_another_input_size(tmp_path: Path) -> None:
    found = schedule_of(compressed(tmp_path, target=0.6, start=0, method="uniform"))
    (tmp_path / "tokens.json").write_text(found.model_dump_json())
    same = compressed(tmp_path, schedule=tmp_path / "tokens.json")
    assert schedule_of(same) == found
    larger = found.scaled(256).model_copy(update={"merge": "soft"})
    (tmp_path / "tokens.json").write_text(larger.model_dump_json())
    again = schedule_of(compressed(tmp_path, schedule=tmp_path / "tokens.json"))
    assert (again.patches, again.merge) == (64, "soft")
    mean = compressed(tmp_path, schedule=tmp_path / "tokens.json", merge="mean")
    assert schedule_of(mean).merge == "mean" and schedule_of(mean).matching == "bipartite"
    older = json.loads(larger.model_dump_json())
    del older["matching"]  # of a file that was written before there was a choice
    (tmp_path / "tokens.json").write_text(json.dumps(older))
    assert schedule_of(compressed(tmp_path, schedule=tmp_path / "tokens.json")).matching == "importance"


def test_what_cannot_be_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(
        CompressError, match=r"tokens: target: 0\.01 of the multiply-accumulates cannot be reached: "
    ):
        compressed(tmp_path, target=0.01)
    (tmp_path / "tokens.json").write_text(Schedule.whole(64, 3).model_dump_json())
    with pytest.raises(CompressError, match=r"tokens\.json: a schedule of 3 blocks, and blocks has 4"):
        compressed(tmp_path, schedule=tmp_path / "tokens.json")
    pooled = Model(built("timm ViT, mean of the patches"), (torch.zeros(1, 3, 32, 32),))
    (tmp_path / "tokens.json").write_text(Schedule.of(16, [16, 8, 8], [16, 8, 8]).model_dump_json())
    with pytest.raises(
        CompressError, match=r"tokens\.json: this schedule drops tokens, and here outputs depend on"
    ):
        compressed(tmp_path, pooled, schedule=tmp_path / "tokens.json")
    convolutional = Model(cnn().eval(), (torch.zeros(1, 1, 32, 32),))
    with pytest.raises(CompressError, match=r"tokens: no vision transformer: .*; leave out the pass"):
        compressed(tmp_path, convolutional)
    assert Tokens().why_not(convolutional).startswith("no vision transformer: ")
    assert Tokens().why_not(trained_vit()) == ""
    once = compressed(tmp_path, target=0.8, method="uniform").model
    with pytest.raises(CompressError, match=r"tokens: its tokens go already, by a pass before: list it once"):
        compressed(tmp_path, once, target=0.8)
    with pytest.raises(
        CompressError, match=r"tokens: start: tokens can go from the blocks 0 to 2 of the 4 in blocks, got 7"
    ):
        compressed(tmp_path, target=0.8, start=7)
    for options, reason in (
        ({"method": "uniform", "start": 0}, "method and start: say how a target is met: give a target"),
        ({"merge": "soft"}, "merge: nothing is merged without a target or a schedule"),
        ({"matching": "bipartite"}, "matching: nothing is merged without a target or a schedule"),
        (
            {"target": 0.5, "method": "learned", "matching": "bipartite"},
            "matching: counts are learned by ranks of importance; take matching: importance, or method: greedy",
        ),
        ({"schedule": "tokens.json", "start": 0}, "start: say how a target is met"),
        ({"target": 0.5, "schedule": "tokens.json"}, "expected one of target, .* got target and schedule"),
        ({"target": 0.5, "max_drop": 1}, "got target and max_drop"),
        ({"target_ms": 3}, "target_ms: is for cost: latency, and the cost is macs; write cost: latency"),
        ({"cost": "latency"}, "cost: say how a target is met"),
        ({"max_drop": 1, "method": "learned"}, "max_drop: learned counts are those of one target"),
        (
            {"target": 0.5, "training": {"epochs": 1}},
            "training: is for method: learned, and the method is greedy",
        ),
    ):
        with pytest.raises(ValueError, match=reason):
            Tokens.model_validate(options)


def test_a_run_keeps_as_many_images_as_are_asked_for(tmp_path: Path) -> None:
    found = {
        count: compressed(tmp_path, target=0.8, method="uniform", pictures=count).plan.details["tokens"][
            "pictures"
        ]
        for count in (0, 2)
    }
    assert [len(pictures) for pictures in found.values()] == [0, 2]
