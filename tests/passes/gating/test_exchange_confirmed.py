"""Exchanges between layers are kept where samples agree that they were not tried on."""

from __future__ import annotations

from typing import Any

import pytest
import tiny_gates
from edgepress.passes.base import PassResult
from edgepress.passes.channels.units import Kept
from edgepress.passes.gates import Gates
from edgepress.passes.gating import deciding
from edgepress.passes.gating.check import Exchanged


@pytest.mark.parametrize("validation", [100, 300])
def test_an_exchange_is_confirmed_by_other_samples(validation: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that helps by chance, and takes all but one channel."""
    before = {}

    def lucky(loss: Any, kept: Any, *_: Any) -> Exchanged:
        before.update(kept)
        return Exchanged({name: choices[:1] for name, choices in kept.items()}, (1.0, 0.5))

    monkeypatch.setattr(deciding, "exchange", lucky)
    result = solved(validation)
    [note] = [note for note in result.notes if "exchanges between layers" in note]
    assert note.endswith(": taken back")
    left = {row["name"]: row["kept"] for row in result.plan.details["gates"]["units"]}
    assert {name: left[name] for name in before} == {name: len(kept) for name, kept in before.items()}


def test_an_exchange_that_helps_others_too_stays_and_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """From hardly anything back to what was decided: in place of a structure that the solver would not come to."""
    narrow: Kept = {}

    def poor(run: deciding.Deciding, share: float) -> deciding.Decided:
        narrow.update({unit.name: (0,) for unit in run.units})
        return deciding.Decided(narrow)

    def better(loss: Any, kept: Any, *_: Any) -> Exchanged:
        return Exchanged({"0": tuple(range(4)), "3": (0,)}, (1.0, 0.5))

    monkeypatch.setattr(deciding.Deciding, "_solved", poor)
    monkeypatch.setattr(deciding, "exchange", better)
    result = solved(validation=300)
    [note] = [note for note in result.notes if "exchanges between layers" in note]
    assert "; refitted and on others " in note and not note.endswith("taken back")
    rows = {row["name"]: row for row in result.plan.details["gates"]["units"]}
    assert {name: row["kept"] for name, row in rows.items()} == {"0": 4, "3": 1}


def test_without_other_samples_nothing_is_exchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> Exchanged:
        raise AssertionError("exchanged what nothing can confirm")

    monkeypatch.setattr(deciding, "exchange", never)
    notes = solved(validation=60).notes
    assert (
        "0.6: no exchanges between layers: the validation part has too few samples to confirm them" in notes
    )


def solved(validation: int) -> PassResult:
    chosen = Gates(method="solver", target=0.6, round_to=1, training={"epochs": 0})
    return chosen.apply(tiny_gates.model(), tiny_gates.context(validation=validation))
