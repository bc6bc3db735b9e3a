"""Exchanges between layers are kept where samples agree that they were not tried on."""

from __future__ import annotations

from typing import Any

import pytest
import tiny_gates
from edgepress.passes.base import PassResult
from edgepress.passes.gates import Gates
from edgepress.passes.gating import deciding
from edgepress.passes.gating.check import Exchanged


@pytest.mark.parametrize("validation", [40, 300])
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


def test_without_other_samples_nothing_is_exchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> Exchanged:
        raise AssertionError("exchanged what nothing can confirm")

    monkeypatch.setattr(deciding, "exchange", never)
    notes = solved(validation=20).notes
    assert (
        "0.6: no exchanges between layers: the validation part has too few samples to confirm them" in notes
    )


def solved(validation: int) -> PassResult:
    chosen = Gates(method="solver", target=0.6, round_to=1, training={"epochs": 0})
    return chosen.apply(tiny_gates.model(), tiny_gates.context(validation=validation))
