"""Taylor importance against gates closed one at a time, and ranks among what is alike."""

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
    ("factor", "message"), [(0.0, "does not depend on any gate"), (float("nan"), "gates of a")]
)
def test_a_loss_that_says_nothing_is_refused(factor: float, message: str) -> None:
    with pytest.raises(CompressError, match=message):
        taylor([linear(factor)], UNITS)


def test_choices_stand_among_those_of_like_units_alone() -> None:
    units = [
        Unit("a", Kind.CHANNELS, 2, alike="mlp"),
        Unit("b", Kind.CHANNELS, 2, alike="mlp"),
        Unit("c", Kind.CHANNELS, 2, alike="stream"),
        Unit("d", Kind.CHANNELS, 1),
        Unit("e", Kind.CHANNELS, 1),
        Unit("f", Kind.BLOCK, 1),
        Unit("g", Kind.BLOCK, 1),
    ]
    values = {
        "a": [4.0, 3.0],
        "b": [1.0, 2.0],
        "c": [900.0, 800.0],
        "d": [0.0],
        "e": [7.0],
        "f": [5.0],
        "g": [6.0],
    }
    scores = {name: torch.tensor(each) for name, each in values.items()}
    found = standing(scores, units, isomorphic=True)
    expected = {"a": [1, 0.75], "b": [0.25, 0.5], "c": [1, 0.5], "d": [1], "e": [1], "f": [0.5], "g": [1]}
    assert {name: each.tolist() for name, each in found.items()} == expected
    alone = standing(scores, units)
    ranked = sorted(
        ((float(s), n, i) for n, each in scores.items() for i, s in enumerate(each)), reverse=True
    )
    assert [float(alone[name][i]) * 10 for _, name, i in ranked] == pytest.approx(list(range(10, 0, -1)))


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
