"""Stages of training in `gates`: those whose end counts take all of their epochs, and what they are learned from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_gates
from edgepress.errors import CompressError
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


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        ({"target": 0.8}, "take method: solver and set training.epochs: 0"),
        ({"method": "solver", "target": 0.8}, "set training.epochs: 0"),
    ],
)
def test_who_has_no_samples_to_train_on_is_told_what_goes_without(options: dict[str, Any], hint: str) -> None:
    """Gates learn in any case; what the message says to write works."""
    model, context = tiny_gates.model(), tiny_gates.context(train=0)
    with pytest.raises(CompressError, match=f"there is none; .*, or {hint}$"):
        Gates.model_validate(options | {"round_to": 1}).apply(model, context)
    written = options | {"round_to": 1, "method": "solver", "training": {"epochs": 0}}
    assert Gates.model_validate(written).apply(model, context).modified
