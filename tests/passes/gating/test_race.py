"""Structures that compete: all of them meet the target, and the refitted networks decide."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest
import tiny_gates
import torch
from edgepress.errors import CompressError
from edgepress.passes.channels.kind import Kind
from edgepress.passes.channels.units import gates_of
from edgepress.passes.gates import Gates
from edgepress.passes.gating.cost import LatencyCost, MacsCost
from edgepress.passes.gating.race import contenders
from edgepress.passes.gating.solver import Solver
from residual_anatomies import concatenated, importance_of, milliseconds, residual
from torch import nn

TARGET = 0.6


def test_each_meets_the_target_and_no_two_are_the_same() -> None:
    anatomy = residual()
    cost = MacsCost(anatomy)
    draws = torch.Generator().manual_seed(0)
    importance = {unit.name: torch.rand(unit.size, generator=draws) for unit in anatomy.units}
    found = contenders(anatomy, importance, cost, TARGET, 1, 0.1)
    assert found[0].name == "all kinds" and len(found) > 2
    for one in found:
        assert float(cost.of(gates_of(one.kept, anatomy.units))) <= TARGET * cost.whole * (1 + 1e-6)
        assert sum(one.kept == other.kept for other in found) == 1
    kinds = {unit.name: unit.kind for unit in anatomy.units}
    for one in found:
        gone = {kinds[name] for name in one.kept}
        if one.name.startswith(("without blocks", "channels alone")):
            assert Kind.BLOCK not in gone
        if one.name == "blocks alone":
            assert gone == {Kind.BLOCK}


def test_parts_that_cannot_meet_the_target_do_not_compete_and_a_target_out_of_reach_is_refused() -> None:
    """Blocks alone leave the stem, and without them it is not enough either."""
    anatomy = residual()
    cost = MacsCost(anatomy)
    importance = {unit.name: torch.rand(unit.size) for unit in anatomy.units}
    names = {one.name for one in contenders(anatomy, importance, cost, 0.02, 1, 0.1)}
    assert names == {"all kinds"}
    with pytest.raises(CompressError, match="cannot be reached"):
        contenders(anatomy, importance, cost, 0.0001, 1, 0.1)


def test_what_a_solver_comes_to_above_the_target_competes_with_one_that_meets_it() -> None:
    """Where tables are not exact it may be 1 % above; and all widths shrunk alike are far from the best there is."""
    anatomy, target = concatenated(), 0.55
    cost, importance = LatencyCost(anatomy, milliseconds(anatomy)), importance_of(anatomy, seed=5)
    solved = Solver(anatomy, importance, cost, cost.pieces()).solve(target)
    assert target * cost.whole < solved.cost < 1.01 * target * cost.whole
    found = contenders(anatomy, importance, cost, target, 8, 0.1)
    assert found[0].name == "all kinds" and len(found) > 1
    for one in found:
        assert float(cost.of(gates_of(one.kept, anatomy.units))) <= target * cost.whole * (1 + 1e-6)


def raced(static_batch: int | None = None) -> tuple[str, Sequence[str]]:
    """What is told of the race for a network of three convolutions, and all that is told."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 24, 3), nn.ReLU(), nn.Conv2d(24, 12, 3), nn.ReLU(),
        nn.Flatten(), nn.Linear(48, tiny_gates.CLASSES),
    )  # fmt: skip
    chosen = Gates(method="solver", target=0.3, round_to=1, training={"epochs": 0})
    model = tiny_gates.model(net.eval(), static_batch)
    result = chosen.apply(model, tiny_gates.context(calibration=200, validation=304))
    [note] = [note for note in result.notes if "unlikeness of structures" in note]
    return note, result.notes


def test_the_refitted_networks_decide_and_that_is_told() -> None:
    note, _ = raced()
    told = note.removeprefix("0.3: unlikeness of structures, refitted, on held-out samples ")
    found = re.fullmatch(r"(\S+) all kinds, (\S+) all kinds, shrunk alike: (.+)", told)
    assert found is not None, told
    best = "all kinds" if float(found[1]) <= float(found[2]) else "all kinds, shrunk alike"
    assert found[3] == best


def test_a_network_that_cannot_be_refitted_is_told_to_be_compared_as_it_is_cut() -> None:
    """Of a static batch of 8 that only whole batches can be run through."""
    note, notes = raced(static_batch=8)
    assert note.startswith("0.3: unlikeness of structures, as they are cut, on held-out samples ")
    assert any(note.startswith("not refitted: ") for note in notes)
