"""What `gates` learns from and judges by: samples of all classes, in batches that any network takes."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import tiny_gates
import torch
from edgepress.errors import CompressError
from edgepress.model import Model
from edgepress.passes.base import PassContext
from edgepress.passes.channels.dissect import Rules, dissect
from edgepress.passes.channels.removal import removed
from edgepress.passes.gates import Gates
from edgepress.passes.gating import lessons as lessons_module
from edgepress.passes.gating.importance import taylor
from edgepress.passes.gating.lessons import FEWEST, Batch, Lessons
from edgepress.passes.gating.matters import EVEN
from edgepress.passes.gating.repair import repaired
from edgepress.passes.training.draws import generator
from torch import Tensor, nn


def lessons_of(model: Model, context: PassContext, **options: Any) -> Lessons:
    return Lessons(Gates.model_validate(options), model, context, macs=1e9)


def importance_of(model: Model, context: PassContext, **options: Any) -> dict[str, Tensor]:
    dissected = dissect(model, "gates", Rules())
    lessons = lessons_of(model, context, **options)
    return taylor(lessons.importance_losses(dissected), dissected.anatomy.units)


def sizes(batches: list[Batch]) -> list[int]:
    return [len(batch[0]) for batch in batches]


@pytest.mark.parametrize(("calibration", "fit"), [(44, [16, 16]), (200, [30] * 5), (24, [18]), (3, [2])])
def test_batches_that_statistics_are_the_mean_of_are_of_one_size(calibration: int, fit: list[int]) -> None:
    """Each counts as much as any other, and one sample alone has no variance."""
    lessons = lessons_of(tiny_gates.model(), tiny_gates.context(calibration=calibration))
    assert sizes(lessons.fit) == fit
    assert lessons.can_fit


def test_of_one_sample_nothing_is_measured_and_that_is_told() -> None:
    """Over maps of one place a BatchNorm has one value of each channel, and refuses it."""
    model = tiny_gates.model(tiny_gates.network())
    dissected = dissect(model, "gates", Rules())
    unit = dissected.anatomy.units[0]
    removal = dissected.removal({unit.name: (0, 1, 2)})
    lessons = lessons_of(model, tiny_gates.context(calibration=1))
    network = removed(model.module, removal)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    assert repaired(model, network, removal, lessons) == [
        "not refitted, nor BatchNorm measured anew: the calibration part has too few samples"
    ]
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_a_network_of_a_static_batch_is_given_whole_batches_alone() -> None:
    """Of 44 calibration samples, 40 are five batches of eight."""
    model, context = tiny_gates.model(static_batch=8), tiny_gates.context()
    lessons = lessons_of(model, context)
    assert set(sizes(lessons.fit)) == {8}
    found = importance_of(model, context)
    assert all(bool(values.any()) for values in found.values())
    with pytest.raises(CompressError, match=r"gates: the calibration part has 5 samples, .* takes 8 at once"):
        lessons_of(model, tiny_gates.context(calibration=5))


def test_what_is_looked_at_is_of_all_classes() -> None:
    """Image folders are read class by class: the first samples are all of one."""
    context = tiny_gates.context(calibration=400, validation=400)
    lessons = Lessons(Gates(), tiny_gates.model(), context, macs=1e12)
    assert lessons.samples == FEWEST
    for batches, part in (
        (lessons.held_out, context.data.validation),
        (lessons.each, context.data.calibration),
    ):
        labels = Counter(
            int(label)
            for batch in batches
            for image in batch[0]
            for (x,), label in part.samples
            if torch.equal(x, image)
        )
        assert sum(labels.values()) == FEWEST and len(labels) == tiny_gates.CLASSES
    again = Lessons(Gates(), tiny_gates.model(), context, macs=1e12)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(lessons.fit, again.fit, strict=True))
    other = Lessons(Gates(), tiny_gates.model(), replace(context, seed=1), macs=1e12)
    assert not all(torch.equal(a[0], b[0]) for a, b in zip(lessons.fit, other.fit, strict=True))


@pytest.mark.parametrize(("macs", "tried"), [(1e12, 32), (1e6, 128)])
def test_single_changes_of_a_large_network_are_tried_on_few_samples_and_confirmed_by_more(
    macs: float, tried: int
) -> None:
    context = tiny_gates.context(validation=400)
    lessons = Lessons(Gates(), tiny_gates.model(), context, macs)
    assert lessons.samples >= FEWEST
    first = torch.cat([batch[0] for batch in lessons.held_out])
    beyond = torch.cat([batch[0] for batch, _ in lessons.others])
    assert len(beyond) == min(lessons.samples, 400 - lessons.samples)
    assert not any(torch.equal(x, y) for x in first for y in beyond)


def test_where_validation_is_small_what_single_changes_were_not_tried_on_confirms_them() -> None:
    """Structures were judged on these; where there are fewer than 32 of them, nothing confirms."""
    lessons = Lessons(Gates(), tiny_gates.model(), tiny_gates.context(validation=140), macs=1e12)
    first = torch.cat([batch[0] for batch in lessons.held_out])
    beyond = torch.cat([batch[0] for batch, _ in lessons.others])
    assert len(first) == FEWEST and len(beyond) == 140 - 32
    assert torch.equal(beyond[: FEWEST - 32], first[32:])
    assert not Lessons(Gates(), tiny_gates.model(), tiny_gates.context(validation=60), macs=1e12).others


def test_fewer_samples_are_looked_at_where_they_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    context = tiny_gates.context(calibration=400, validation=400)
    monkeypatch.setattr(lessons_module, "HELD", 50 * (tiny_gates.SIDE**2 + tiny_gates.CLASSES))
    lessons = Lessons(Gates(), tiny_gates.model(), context, macs=1e6)
    assert lessons.samples == 50
    assert sum(sizes(lessons.fit)) + sum(sizes(lessons.choose)) <= 50


def test_where_outputs_matter_every_sample_counts_alike() -> None:
    """Also in parts of several sizes: 75 samples are three batches of 25, in parts of 6 and 7."""
    model = tiny_gates.model()
    lessons = lessons_of(model, tiny_gates.context(calibration=100, validation=400))
    assert sizes(lessons.fit) == [25] * 3
    found = lessons.matters
    assert set(found) == {"0", "3", "7"}
    assert found["0"].shape == (64,) and found["7"].shape == (1,)
    squares = torch.zeros(64)
    numbers = iter(range(12))
    for batch in lessons.fit:
        for part in torch.tensor_split(batch[0], 4):
            outputs = model.module[:3](part).detach().requires_grad_()
            network = nn.Sequential(*model.module[4:])
            made = model.module[3](outputs)
            drawn = generator(lessons.seed, "matters", next(numbers))
            scores = network(made).log_softmax(1)
            labels = torch.multinomial(scores.detach().exp(), 1, generator=drawn)
            [gradient] = torch.autograd.grad(scores.gather(1, labels).sum(), made)
            squares += gradient.square().mean(1).sum(0).flatten()
    torch.testing.assert_close(found["3"], EVEN + (1 - EVEN) * squares / squares.mean(), rtol=1e-3, atol=1e-4)


def test_what_matters_is_handed_to_the_repair() -> None:
    """A network that reads one token only is refitted to that one."""
    torch.manual_seed(0)

    class First(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(8, 8), nn.Linear(8, tiny_gates.CLASSES)
            self.places = nn.Parameter(5 * torch.randn(8, 8))

        def forward(self, x: Tensor) -> Tensor:
            first: Tensor = self.two(self.one(x[:, 0] + self.places))[:, 0]
            return first

    model = Model(First().eval(), (torch.zeros(1, 1, 8, 8),))
    lessons = lessons_of(model, tiny_gates.context(calibration=200))
    dissected = dissect(model, "gates", Rules())
    removal = dissected.removal({"one": (0, 1, 2, 3)})
    unlike = {}
    for name in ("matters", "alike"):
        if name == "alike":
            lessons.__dict__["matters"] = {}
        network = removed(model.module, removal)
        repaired(model, network, removal, lessons)
        unlike[name] = lessons.unlike(network)
    assert unlike["matters"] < 0.9 * unlike["alike"]


class TwoOutputs(nn.Module):
    """Logits of one half, and values of the other half of the channels."""

    def __init__(self, values: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.other = nn.Conv2d(1, 8, 3), nn.Conv2d(1, 8, 3)
        self.classes, self.values, self.factor = nn.Linear(8, tiny_gates.CLASSES), nn.Linear(8, 1), values

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        classes, values = (conv(x).relu().mean((2, 3)) for conv in (self.one, self.other))
        return self.classes(classes), self.factor * self.values(values)[:, 0]


@pytest.mark.parametrize("factor", [1.0, 100.0])
def test_what_only_a_further_output_needs_is_worth_something(factor: float) -> None:
    """However large its numbers are: errors are taken in units of its own spread."""
    model = Model(TwoOutputs(factor).eval(), (torch.zeros(1, 1, 8, 8),), output_names=("classes", "values"))
    found = importance_of(model, tiny_gates.context())
    assert bool(found["one"].any()) and bool(found["other"].any())
    if factor > 1:
        once = Model(TwoOutputs(1.0).eval(), (torch.zeros(1, 1, 8, 8),), output_names=("classes", "values"))
        torch.testing.assert_close(found, importance_of(once, tiny_gates.context()), rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("last", [nn.Softmax(1), nn.LogSoftmax(1)])
def test_a_softmax_of_the_networks_own_changes_nothing(last: nn.Module) -> None:
    """Another one on top of it would flatten all that differs."""
    context, found = tiny_gates.context(), []
    for module in (tiny_gates.network(), tiny_gates.network(last)):
        lessons = lessons_of(tiny_gates.model(module), context)
        other = copy.deepcopy(module)
        with torch.no_grad():
            other[7].weight.mul_(3.0)
        found.append((lessons.unlike(other), importance_of(tiny_gates.model(module), context)))
    (unlike, importance), (same, again) = found
    assert same == pytest.approx(unlike, rel=1e-4) and unlike > 1e-3
    torch.testing.assert_close(again, importance, rtol=1e-3, atol=1e-7)
