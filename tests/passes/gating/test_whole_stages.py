"""Stages whose end is what counts take all of their epochs, however early the metric stops to rise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_gates
from edgepress.passes.gates import Gates


@pytest.mark.parametrize(
    ("options", "stage"),
    [({"target": 0.8, "gate_epochs": 2, "gate_lr": 1e-6}, "gates-0.8"), ({"elastic": [1.0, 0.7]}, "elastic")],
)
def test_patience_does_not_end_a_stage_whose_last_epoch_is_kept(
    tmp_path: Path, options: dict[str, Any], stage: str
) -> None:
    """With next to no learning rate no epoch is better than the one before."""
    training = {"epochs": 2, "batch": 16, "lr": 1e-8, "patience": 1}
    chosen = Gates.model_validate({"training": training, "round_to": 1, **options})
    details = chosen.apply(tiny_gates.model(), tiny_gates.context(tmp_path)).plan.details
    history = details["training"][stage]
    assert [row["epoch"] for row in history["epochs"]] == [0, 1, 2]
    assert not history["stopped_early"] and history["best"] is None
