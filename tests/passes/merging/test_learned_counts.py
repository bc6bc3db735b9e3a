"""Counts that learn: distributions, masks that compute what removal does, and the budget that is met at each step."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from edgepress.calibration.data import Part
from edgepress.examples import digits as digits_example
from edgepress.examples.digits.models import vit
from edgepress.model import Model
from edgepress.passes.merging.cost import Macs, macs_of
from edgepress.passes.merging.distributions import around, candidates, mean, straight_through, survival
from edgepress.passes.merging.encoder import Encoder, token_network
from edgepress.passes.merging.learning import Counting, with_masks
from edgepress.passes.merging.reading import tokens_read
from edgepress.passes.merging.schedule import MergeName, Schedule
from edgepress.passes.merging.settings import Settings, blocks_of, set_counts
from edgepress.passes.merging.uniform import uniform
from edgepress.passes.teaching.likeness import Likeness, Teacher
from edgepress.passes.teaching.taps import Tapped, frozen
from edgepress.passes.teaching.task import read_task
from edgepress.passes.tokens import Tokens
from edgepress.passes.training.draws import Draws
from safetensors.torch import load_file
from slim_job import context_in
from token_nets import NETWORKS, built
from torch import Tensor, nn


def test_a_distribution_keeps_its_mean_and_its_survival_adds_up_to_it() -> None:
    choices = candidates(16)
    assert choices.tolist() == [16, 12, 8, 4, 1]
    assert candidates(1).tolist() == [1]
    logits = torch.tensor([0.0, 1.0, -1.0, 0.5, 2.0])
    p = logits.double().softmax(0)
    assert float(mean(logits, choices)) == pytest.approx(float(p @ choices))
    by_hand = [float(p[choices > r].sum()) for r in range(16)]
    found = survival(logits, choices, 16)
    assert found.tolist() == pytest.approx(by_hand) and float(found.sum()) == pytest.approx(
        float(p @ choices)
    )
    for count in (2, 7, 15):
        assert float(mean(around(count, choices), choices)) == pytest.approx(count, abs=1e-6)
    assert float(mean(around(16, choices), choices)) > 15.9


def test_a_mask_is_hard_and_has_the_gradient_of_its_probability() -> None:
    logits = torch.zeros(2, requires_grad=True, dtype=torch.float64)
    soft = survival(logits, candidates(5), 5)  # candidates 5 and 1
    mask = straight_through(torch.tensor([1.0, 1, 1, 0, 0]), soft)
    assert mask.tolist() == [1, 1, 1, 0, 0]
    (found,) = torch.autograd.grad(mask[3], logits)
    assert found.tolist() == pytest.approx([0.25, -0.25])  # of p(5) = 1/2: p (1 - p) and its negative


@pytest.mark.parametrize("merge", ["mean", "weighted", "soft"])
@pytest.mark.parametrize("name", NETWORKS)
def test_masks_compute_what_removal_does(name: str, merge: MergeName) -> None:
    x = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    encoder, network = token_network(built(name), (x,))
    read = leading_read(network, x, encoder)
    depth = len(blocks_of(network, encoder).each)
    merged = [13, 9, 5, 3][:depth]
    pruned = [16, *merged[:-1]] if read is None else [16, 12, 8, 5][:depth]
    schedule = Schedule.of(16, pruned, merged, merge).scaled(encoder.patches)
    settings = Settings(encoder, schedule, read or 0, read)
    removed, masked = blocks_of(network, encoder), copy.deepcopy(network)
    set_counts(removed, settings)
    removed.each[-1].kept = schedule.blocks[-1]  # also where it is usually left alone
    blocks = with_masks(masked, settings, range(depth))
    assert blocks.schedule() == schedule
    with torch.no_grad():
        torch.testing.assert_close(masked(x), network(x), rtol=1e-4, atol=1e-5)


def leading_read(network: nn.Module, x: Tensor, encoder: Encoder) -> int | None:
    places = tokens_read(network, (x,), encoder)
    return None if places[-1] >= encoder.leading else places[-1] + 1


def counting(share: float, part: Part) -> tuple[Counting, Macs]:
    """Of the trained digits ViT, from the uniform schedule of a share of its multiply-accumulates."""
    network = vit()
    network.load_state_dict(load_file(Path(digits_example.__file__).parent / "vit.safetensors"))
    model = Model(network.eval(), (torch.zeros(1, 1, 32, 32),))
    encoder, found = token_network(model.module, model.example_inputs)
    whole = model.facts().macs
    assert whole is not None
    macs = macs_of(blocks_of(found, encoder).each, encoder.leading, encoder.patches, whole, 1)
    start = uniform(Schedule.whole(64, 4), range(3), macs, share * whole, joining=0.5)
    inputs, labels = part.batch(range(32))
    task = read_task(model.run(*inputs), labels, None)
    likeness = Likeness([Teacher(frozen(model.module, []))], task, temperature=1.0, teacher_weight=1.0)
    blocks = with_masks(found, Settings(encoder, start, 1, 1), range(3))
    return Counting(Tapped(found, []), likeness, blocks, macs, share * whole), macs


def test_the_budget_is_met_before_each_step_and_the_gradient_leaves_it_alone(tmp_path: Path) -> None:
    part = context_in(tmp_path).data.train
    objective, macs = counting(0.6, part)
    logits, blocks = objective.blocks.logits, objective.blocks
    for disturbed in (0.0, 3.0, -3.0):
        with torch.no_grad():
            logits += disturbed * torch.rand_like(logits)
        objective.training(True)
        assert 0.985 * objective.limit <= macs.of(blocks.schedule()) <= objective.limit
    inputs, labels = part.batch(range(32))
    [loss] = objective.loss(objective.network, inputs, labels, Draws(0, 0, 32, range(32))).values()
    (gradient,) = torch.autograd.grad(loss, logits)
    pull = blocks.get_buffer("pull")
    assert float(gradient.norm()) > 0 and float(pull.norm()) > 0
    assert abs(float((gradient * pull).sum())) < 1e-6 * float(gradient.norm() * pull.norm())
    by_hand = torch.zeros_like(pull)
    chances = logits.detach().softmax(-1)
    for site in range(3):  # what a token costs at a site, times how the mean moves with each logit
        for kind in range(2):
            average = float(chances[site, kind] @ blocks.get_buffer("choices"))
            by_hand[site, kind] = chances[site, kind] * (blocks.get_buffer("choices") - average)
    ratios = pull / by_hand
    assert torch.allclose(ratios, ratios[:, :1, :1].expand_as(ratios)) and bool((ratios > 0).all())


def test_learned_counts_are_more_like_the_whole_network_than_those_that_they_start_from(
    tmp_path: Path,
) -> None:
    context = context_in(tmp_path)
    options = {
        "target": 0.6,
        "start": 0,
        "method": "learned",
        "training": {"epochs": 2, "batch": 32, "lr": 0.02},
    }
    model = Model(vit().eval(), (torch.zeros(1, 1, 32, 32),))
    model.module.load_state_dict(load_file(Path(digits_example.__file__).parent / "vit.safetensors"))
    result = Tokens.model_validate(options).apply(model, context)
    [history] = result.plan.details["training"].values()
    losses = [row["teacher"] for row in history["epochs"][1:]]
    assert len(losses) == 2 and losses[1] < 1.5 * losses[0]
    [note] = [note for note in result.notes if note.startswith(("learned: ", "uniform: "))]
    assert " with the learned one, and " in note
    whole, left = model.facts().macs, result.model.facts().macs
    assert whole is not None and left is not None and 0.58 * whole < left <= 0.6 * whole
