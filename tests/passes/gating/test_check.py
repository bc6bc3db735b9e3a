"""Leaving one out, and exchanges: what they say and find where the loss is known."""

from __future__ import annotations

import pytest
import torch
from anatomies import chain
from edgepress.passes.channels.units import Gates, Kept, gates_of
from edgepress.passes.gating.check import Effect, exchange, leave_one_out
from edgepress.passes.gating.cost import ParamsCost
from edgepress.passes.gating.projection import project

ANATOMY = chain([32, 32, 32, 32])
UNITS = ANATOMY.units
SCORES = {unit.name: torch.ones(unit.size) for unit in UNITS}


class Squares:
    """A loss that grows with the square of the channels that each unit lacks, counting how often it is asked."""

    def __init__(self, weights: dict[str, float]) -> None:
        self.weights, self.asked = weights, 0

    def __call__(self, gates: Gates) -> float:
        self.asked += 1
        return sum(self.weights[name] * float((1 - gate).sum()) ** 2 for name, gate in gates.items())


def cut(*counts: int) -> Kept:
    return {f"c{i}": tuple(range(count)) for i, count in enumerate(counts) if count < 32}


def test_effects_are_those_of_each_unit_alone() -> None:
    loss = Squares({"c0": 1.0, "c1": 2.0, "c2": 3.0, "c3": 4.0})
    effects = leave_one_out(loss, loss, cut(24, 16, 32, 8), UNITS)
    assert effects == {
        "c0": Effect(64, 64),
        "c1": Effect(2 * 256, 2 * 256),
        "c3": Effect(4 * 576, 4 * 576),
    }
    assert loss.asked == 1 + 2 * 3


def test_harm_is_that_of_the_network_as_it_was() -> None:
    """One that trained with its gates does badly with all of them open, which says nothing of a cut."""
    before = Squares({"c0": 1.0, "c1": 1.0, "c2": 1.0, "c3": 1.0})

    def trained(gates: Gates) -> float:
        return 1e4 if all(bool((gate == 1).all()) for gate in gates.values()) else before(gates)

    found = leave_one_out(before, trained, cut(24), UNITS)
    assert found == {"c0": Effect(64, 64 - 1e4)}


def test_units_that_make_up_for_each_other_do_more_together_than_alone() -> None:
    """The loss is there only where both are cut: alone neither harms, and each of them would regain all."""

    def loss(gates: Gates) -> float:
        return float((1 - gates["c0"]).sum() * (1 - gates["c1"]).sum())

    assert leave_one_out(loss, loss, cut(16, 16), UNITS) == {"c0": Effect(0, 256), "c1": Effect(0, 256)}


def test_exchanges_lower_the_loss_at_the_same_cost() -> None:
    """All scores are equal, so that the projection cannot know that one layer hurts by far the most."""
    target = 0.2
    loss, cost = Squares({"c0": 0.01, "c1": 0.01, "c2": 10.0, "c3": 0.01}), ParamsCost(ANATOMY)
    kept = project(SCORES, cost, target, UNITS, round_to=1)
    effects = leave_one_out(loss, loss, kept, UNITS)
    found = exchange(loss, kept, effects, SCORES, cost, target, UNITS, round_to=1, evaluations=60)
    assert found.losses[0] == loss(gates_of(kept, UNITS)) > 1.5 * found.losses[-1]
    assert all(after < before for before, after in zip(found.losses, found.losses[1:], strict=False))
    assert len(found.kept.get("c2", range(32))) > len(kept["c2"])
    assert float(cost.of(gates_of(found.kept, UNITS))) <= target * cost.whole * (1 + 1e-6)


@pytest.mark.parametrize("evaluations", [1, 2, 7])
def test_the_loss_is_asked_no_more_than_it_may(evaluations: int) -> None:
    loss, cost = Squares({"c0": 0.01, "c1": 1.0, "c2": 10.0, "c3": 0.1}), ParamsCost(ANATOMY)
    kept = project(SCORES, cost, 0.5, UNITS, round_to=1)
    effects = leave_one_out(loss, loss, kept, UNITS)
    loss.asked = 0
    exchange(loss, kept, effects, SCORES, cost, 0.5, UNITS, round_to=1, evaluations=evaluations)
    assert loss.asked <= evaluations


def test_what_is_best_already_stays_as_it_is() -> None:
    cost = ParamsCost(ANATOMY)
    kept = project(SCORES, cost, 0.5, UNITS)

    def loss(gates: Gates) -> float:
        return 0.0 if all(gates[n].equal(g) for n, g in gates_of(kept, UNITS).items()) else 1.0

    effects = {name: Effect(1.0, float(i)) for i, name in enumerate(kept)}
    found = exchange(loss, kept, effects, SCORES, cost, 0.5, UNITS)
    assert found.kept == kept and found.losses == (0.0,)
