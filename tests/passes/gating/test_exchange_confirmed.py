"""Exchanges between layers are kept where samples agree that they were not tried on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_gates
from edgepress.passes.gates import Gates
from edgepress.passes.gating import deciding
from edgepress.passes.gating.check import Exchanged


@pytest.mark.parametrize(
    ("validation", "stays", "told"), [(40, False, " -> 0.5"), (300, True, ": taken back")]
)
def test_an_exchange_is_confirmed_by_other_samples_where_there_are_any(
    tmp_path: Path, validation: int, stays: bool, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that helps by chance, and takes all but one channel."""
    before = {}

    def lucky(loss: Any, kept: Any, *_: Any) -> Exchanged:
        before.update(kept)
        return Exchanged({name: choices[:1] for name, choices in kept.items()}, (1.0, 0.5))

    monkeypatch.setattr(deciding, "exchange", lucky)
    chosen = Gates(method="solver", target=0.6, round_to=1, training={"epochs": 0})
    result = chosen.apply(tiny_gates.model(), tiny_gates.context(validation=validation))
    [note] = [note for note in result.notes if "exchanges between layers" in note]
    assert note.endswith(told)
    left = {row["name"]: row["kept"] for row in result.plan.details["gates"]["units"]}
    assert {name: left[name] for name in before} == {
        name: len(choices) if stays else 1 for name, choices in before.items()
    }
