"""The pass `tokens`: what it drops without a change, the target that it meets, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
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
        "all tokens stay: outputs depend on patches behind the last block, and no target is given",
    )


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


def test_a_schedule_is_taken_up_again_for_another_input_size(tmp_path: Path) -> None:
    found = schedule_of(compressed(tmp_path, target=0.6, start=0, method="uniform"))
    (tmp_path / "tokens.json").write_text(found.model_dump_json())
    again = compressed(tmp_path, schedule=tmp_path / "tokens.json")
    assert schedule_of(again) == found
    larger = found.scaled(256)
    (tmp_path / "tokens.json").write_text(larger.model_dump_json())
    assert schedule_of(compressed(tmp_path, schedule=tmp_path / "tokens.json")).patches == 64


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
    with pytest.raises(ValueError, match="expected target or schedule, not both"):
        Tokens.model_validate({"target": 0.5, "schedule": "tokens.json"})
