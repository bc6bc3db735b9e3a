"""Options of `gates` that contradict each other are refused, and the message says what to write."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
from edgepress.form import Form
from edgepress.model import Model
from edgepress.passes.base import PassContext, PassPlan
from edgepress.passes.gating.options import GatesOptions
from pydantic import ValidationError


class Options(GatesOptions):
    """The options alone."""

    name: ClassVar[str] = "gates"

    @property
    def takes(self) -> frozenset[Form]:
        return frozenset({Form.MODULES})

    def leaves(self, taken: Form) -> Form:
        return taken

    def plan(self, model: Model, context: PassContext) -> PassPlan:
        raise NotImplementedError

    def rebuild(self, model: Model, plan: PassPlan, context: PassContext) -> Model:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": 1.0}, "less than 1"),
        ({"target": 0.0}, "greater than 0"),
        (
            {"targets": [0.5, 0.5]},
            r"targets: expected each share below the one before it \(six digits count\), got \[0.5, 0.5\]",
        ),
        ({"targets": [0.5, 0.65]}, "below the one before it"),
        ({"targets": [0.50000001, 0.5]}, "below the one before it"),
        ({"kinds": ["block", "block"]}, "kinds: expected each kind once, got block, block"),
        (
            {"method": "solver", "gate_lr": 0.1, "gate_epochs": 2},
            "method: solver trains no gates: leave out gate_epochs, gate_lr, or take method: gates",
        ),
        ({"targets": [1.0, 0.5]}, "targets: expected shares of the cost above 0 and below 1"),
        ({"target": 0.5, "targets": [0.5, 0.4]}, "target or targets, not both"),
        ({"table": "cpu.json"}, "write cost: latency"),
        ({"kinds": []}, "at least one of channels, heads, head_size, block"),
        ({"kinds": ["tokens"]}, "channels"),
        ({"elastic": [0.75, 0.5]}, "elastic: expected 1.0 and smaller shares"),
        ({"elastic": [1.0]}, "elastic: expected 1.0 and smaller shares"),
        ({"elastic": [1.0, 0.5, 0.75]}, "elastic: expected each share below"),
        (
            {"elastic": [1.0, 0.5], "targets": [0.8, 0.6]},
            "elastic: nested networks are made without targets: leave",
        ),
        (
            {"elastic": [1.0, 0.5], "gate_lr": 0.1, "method": "solver", "compensation": False},
            "made without method, gate_lr, compensation: leave out these options, or elastic",
        ),
        ({"lambda": 3}, "lambda"),
        ({"round_to": 0}, "round_to"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Options(**options)


def test_the_targets_are_a_series() -> None:
    assert Options().shares == (0.5,)
    assert Options(target=0.3).shares == (0.3,)
    assert Options(targets=(0.8, 0.65, 0.5)).shares == (0.8, 0.65, 0.5)
    assert Options(cost="latency", table="cpu.json", elastic=[1.0, 0.5]).elastic == (1.0, 0.5)  # type: ignore[arg-type]
