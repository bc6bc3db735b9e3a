"""Networks nested in one: what each is made of, what training them together gives, and taking one out."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from anatomies import chain
from edgepress.calibration.data import Part
from edgepress.examples.digits.data import digits
from edgepress.model import Model
from edgepress.passes.channels.dissect import Rules, dissect
from edgepress.passes.channels.dissected import Dissected
from edgepress.passes.channels.gated import Gated
from edgepress.passes.channels.kind import Kind
from edgepress.passes.channels.units import Kept, gates_of
from edgepress.passes.gating.cost import MacsCost, ParamsCost
from edgepress.passes.gating.elastic import Elastic, Nested, nested
from edgepress.passes.gating.pieces import pieces_of_terms
from edgepress.passes.gating.widths import widths_of
from edgepress.passes.teaching.likeness import Likeness, Teacher
from edgepress.passes.teaching.taps import Tapped, frozen
from edgepress.passes.teaching.task import first_batch, read_task
from edgepress.passes.training.draws import Draws
from edgepress.passes.training.options import TrainingOptions
from edgepress.passes.training.stage import Stages
from slim_job import context_in, trained_cnn
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import update_bn

SHARES = (1.0, 0.6, 0.4, 0.2)
OPTIONS = TrainingOptions(epochs=1, batch=16, lr=1e-3, keep="last")


class Open(nn.Module):
    """A gate whose gradient is looked at."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.ones(size))

    def forward(self) -> Tensor:
        return self.values


def importance_of(network: nn.Module, dissected: Dissected) -> dict[str, Tensor]:
    """By how much the loss rises, by a Taylor expansion of the first order: squares of a gate's gradients, (size,)."""
    images, labels = digits()["calibration"]
    gates = {unit.name: Open(unit.size) for unit in dissected.anatomy.units}
    gated = Gated(network, dissected, gates)
    found = {name: torch.zeros(gate.values.numel()) for name, gate in gates.items()}
    for x, y in zip(images.split(10), labels.split(10), strict=True):
        gated.zero_grad()
        F.cross_entropy(gated(x), y).backward()
        for name, gate in gates.items():
            assert gate.values.grad is not None
            found[name] += gate.values.grad.square()
    return found


@pytest.fixture(scope="module")
def dissected() -> Dissected:
    model = Model(trained_cnn(), (torch.zeros(2, 1, 32, 32),))
    return dissect(model, "gates", Rules(kinds=frozenset({Kind.CHANNELS})))


@pytest.fixture(scope="module")
def structures(dissected: Dissected) -> tuple[Kept, ...]:
    anatomy, importance = dissected.anatomy, importance_of(trained_cnn(), dissected)
    pieces = pieces_of_terms(term for layer in anatomy.layers for term in layer.macs)
    return nested(anatomy, importance, MacsCost(anatomy), pieces, SHARES)


def objective_of(dissected: Dissected, structures: tuple[Kept, ...]) -> Elastic:
    network, teacher = trained_cnn(), trained_cnn()
    inputs, labels = first_batch(context_in(Path()).data.calibration, 16, None)
    task = read_task([teacher(*inputs)], labels, used_by="gates")
    likeness = Likeness([Teacher(frozen(teacher, []))], task, teacher_weight=0.5)
    return Elastic(Tapped(Nested(network, dissected, structures), []), likeness)


def test_each_structure_is_within_the_last_and_costs_its_share(
    dissected: Dissected, structures: tuple[Kept, ...]
) -> None:
    cost = MacsCost(dissected.anatomy)
    assert structures[0] == {}
    for share, larger, smaller in zip(SHARES[1:], structures, structures[1:], strict=False):
        found = float(cost.of(gates_of(smaller, dissected.anatomy.units))) / cost.whole
        # A step of eight channels of this network is at most a twentieth of it.
        assert share - 0.05 <= found <= share * (1 + 1e-6)
        for unit in dissected.anatomy.units:
            all_of_it = range(unit.size)
            assert set(smaller.get(unit.name, all_of_it)) <= set(larger.get(unit.name, all_of_it))
            assert len(smaller.get(unit.name, all_of_it)) in widths_of(unit, 8, 0.1)


def test_blocks_that_are_gone_stay_gone() -> None:
    """And what is inside them is nested all the same."""
    anatomy = chain([16, 32, 32], blocks=3)
    drawn = torch.Generator().manual_seed(0)
    importance = {unit.name: torch.rand(unit.size, generator=drawn) for unit in anatomy.units}
    pieces = pieces_of_terms(anatomy.params.values())
    found = nested(anatomy, importance, ParamsCost(anatomy), pieces, (1.0, 0.9, 0.6, 0.2))
    for larger, smaller in pairwise(found):
        for unit in anatomy.units:
            all_of_it = range(unit.size)
            assert set(smaller.get(unit.name, all_of_it)) <= set(larger.get(unit.name, all_of_it))
    gone = [sum(choices == () for choices in kept.values()) for kept in found]
    assert gone[0] == 0 < gone[1]


def test_what_is_taken_out_computes_what_the_gated_network_does(
    dissected: Dissected, structures: tuple[Kept, ...]
) -> None:
    networks = objective_of(dissected, structures).nested
    x = digits()["validation"][0][:16]
    # Statistics that differ between the sizes, as a training leaves them.
    for size in range(len(structures)):
        with networks.at(size), torch.no_grad():
            networks.train()
            networks(x * (1 - 0.2 * size))
            networks.eval()
    for size in range(len(structures)):
        smaller = networks.extracted(size)
        with networks.at(size), torch.no_grad():
            # Sums of float32 over fewer channels are taken in another order.
            torch.testing.assert_close(smaller(x), networks(x), rtol=1e-5, atol=1e-5)
    sizes = [sum(p.numel() for p in networks.extracted(size).parameters()) for size in range(len(structures))]
    assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) == len(sizes)


def test_the_state_holds_all_sizes(dissected: Dissected, structures: tuple[Kept, ...]) -> None:
    one, other = (objective_of(dissected, structures).nested for _ in range(2))
    x = digits()["validation"][0][:16]
    one.train()
    with one.at(2), torch.no_grad():
        one(x)
        for parameter in one.parameters():
            parameter.mul_(0.9)
    other.load_state_dict(one.state_dict())
    for size in range(len(structures)):
        torch.testing.assert_close(other.extracted(size)(x), one.extracted(size)(x), rtol=0, atol=0)


def test_every_step_trains_the_largest_the_smallest_and_one_that_is_drawn(
    dissected: Dissected, structures: tuple[Kept, ...]
) -> None:
    objective = objective_of(dissected, structures)
    inputs, labels = first_batch(context_in(Path()).data.calibration, 8, None)
    drawn = set()
    for step in range(8):
        parts = objective.loss(objective.network, inputs, labels, Draws(0, step, 8, range(8)))
        again = objective.loss(objective.network, inputs, labels, Draws(0, step, 8, range(8)))
        assert list(parts) == ["labels", "teacher", "smallest", "between"]
        assert all(torch.equal(parts[name], again[name]) for name in parts)
        drawn.add(round(float(parts["between"].detach()), 6))
    assert len(drawn) == 2  # the sizes between


def test_two_sizes_leave_none_to_draw(dissected: Dissected, structures: tuple[Kept, ...]) -> None:
    objective = objective_of(dissected, (structures[0], structures[2]))
    inputs, labels = first_batch(context_in(Path()).data.calibration, 8, None)
    parts = objective.loss(objective.network, inputs, labels, Draws(0, 0, 8, range(8)))
    assert list(parts) == ["labels", "teacher", "smallest"]


def test_sizes_that_were_trained_together_are_worth_more_than_cuts(
    dissected: Dissected, structures: tuple[Kept, ...]
) -> None:
    objective = objective_of(dissected, structures)
    cut, trained = objective_of(dissected, structures).nested, objective.nested
    x, y = digits()["train"]
    rows = [((image,), label) for image, label in zip(x[:320], y[:320], strict=True)]
    context = replace(context_in(Path()), scratch=None)
    Stages("gates", Part("train", rows), context, None).train("elastic", objective, OPTIONS)
    for networks in (cut, trained):
        for size in range(len(structures)):
            with networks.at(size):
                update_bn(x[:96].split(32), networks)
        networks.eval()
    before, after = (
        [accuracy(networks.extracted(size)) for size in range(len(structures))] for networks in (cut, trained)
    )
    # Three standard errors of the difference of two shares of 450 samples, at worst and at a share of 0.97.
    assert after[-1] > before[-1] + 3 * (2 * 0.5 * 0.5 / 450) ** 0.5
    assert (
        min(now - was for now, was in zip(after, before, strict=True)) > -3 * (2 * 0.97 * 0.03 / 450) ** 0.5
    )


def accuracy(network: nn.Module) -> float:
    """On samples that nothing has learned from."""
    x, y = digits()["test"]
    with torch.no_grad():
        found = torch.cat([network(some).argmax(1) for some in x.split(50)])  # faster than all at once
    return float((found == y).float().mean())
