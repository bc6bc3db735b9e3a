"""Taylor importance against gates closed one at a time, and ranks."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from anatomies import chain
from edgepress.errors import CompressError
from edgepress.passes.channels.kind import Kind
from edgepress.passes.channels.units import Gates, Unit
from edgepress.passes.gating.cost import ParamsCost
from edgepress.passes.gating.importance import standing, taylor, worth
from torch import Tensor

UNITS = (Unit("a", Kind.CHANNELS, 3), Unit("b", Kind.CHANNELS, 2))
WEIGHTS = {"a": torch.tensor([1.0, -2.0, 0.0]), "b": torch.tensor([0.5, 3.0])}


def linear(sample: float) -> Callable[[Gates], Tensor]:
    """A loss whose first-order change is the whole of it."""
    return lambda gates: (
        torch.stack([(WEIGHTS[name] * gate).sum() for name, gate in gates.items()]).sum() * sample
    )


def test_importance_is_the_mean_square_of_what_closing_each_gate_changes() -> None:
    samples = [1.0, -1.0, 2.0]
    found = taylor([linear(sample) for sample in samples], UNITS)
    opened = {unit.name: torch.ones(unit.size) for unit in UNITS}
    for unit in UNITS:
        for choice in range(unit.size):
            closed = {name: gate.clone() for name, gate in opened.items()}
            closed[unit.name][choice] = 0
            changes = [float(linear(s)(opened) - linear(s)(closed)) ** 2 for s in samples]
            assert float(found[unit.name][choice]) == pytest.approx(sum(changes) / 3, rel=1e-5)


def test_a_unit_that_the_loss_does_not_see_matters_nothing() -> None:
    found = taylor([lambda gates: gates["a"].sum()], UNITS)
    assert found["b"].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("factor", "message"), [(0.0, "do not depend on any gate"), (float("nan"), "gates of a")]
)
def test_a_loss_that_says_nothing_is_refused(factor: float, message: str) -> None:
    with pytest.raises(CompressError, match=message):
        taylor([linear(factor)], UNITS)


def test_choices_stand_by_their_scores_among_all() -> None:
    units = [Unit("a", Kind.CHANNELS, 2), Unit("b", Kind.CHANNELS, 2), Unit("c", Kind.BLOCK, 1)]
    scores = {"a": torch.tensor([4.0, 3.0]), "b": torch.tensor([1.0, 900.0]), "c": torch.tensor([3.0])}
    found = {name: each.tolist() for name, each in standing(scores, units).items()}
    assert found == {
        "a": pytest.approx([0.8, 0.6]),
        "b": pytest.approx([0.2, 1.0]),
        "c": pytest.approx([0.4]),
    }


def test_worth_is_importance_for_what_a_choice_costs() -> None:
    """Of equal importances those are worth least that save most; what is in a block costs what it does while that is
    there."""
    anatomy = chain([32, 32], blocks=1)
    cost = ParamsCost(anatomy)
    found = worth({unit.name: torch.ones(unit.size) for unit in anatomy.units}, cost, anatomy.units)
    for name, each in found.items():
        gates = {unit.name: torch.ones(unit.size) for unit in anatomy.units}
        gates[name][0] = 0
        saved = cost.whole - float(cost.of(gates))
        assert each.tolist() == pytest.approx([1 / saved] * len(each), rel=1e-6)
