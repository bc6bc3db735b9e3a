"""Networks that put out more in training than in evaluation: auxiliary heads are left out, the rest is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_gates
import torch
from edgepress.errors import CompressError
from edgepress.passes.gates import Gates
from edgepress.passes.teaching.likeness import Likeness, Teacher
from edgepress.passes.teaching.taps import Tapped, frozen
from edgepress.passes.teaching.task import Task
from edgepress.passes.training.draws import Draws
from torch import Tensor, nn


class WithAuxiliaryHead(nn.Module):
    """As GoogLeNet: in training a head of its own reads what is in the middle."""

    def __init__(self) -> None:
        super().__init__()
        layers = tiny_gates.network()
        self.first, self.rest = layers[:3], layers[3:]
        self.auxiliary = nn.Sequential(nn.Conv2d(8, tiny_gates.CLASSES, 8), nn.Flatten())

    def forward(self, x: Tensor) -> Any:
        x = self.first(x)
        return (self.rest(x), self.auxiliary(x)) if self.training else self.rest(x)


class Twice(nn.Module):
    """A layer that gives its input twice in training."""

    def forward(self, x: Tensor) -> Any:
        return (x, x) if self.training else x


def pruned(module: nn.Module, **options: Any) -> Any:
    chosen = Gates.model_validate({"training": tiny_gates.TRAINING, "round_to": 1, **options})
    return chosen.apply(tiny_gates.model(module.eval()), tiny_gates.context())


@pytest.mark.parametrize("options", [{"gate_epochs": 1, "target": 0.7}, {"elastic": [1.0, 0.7]}])
def test_an_auxiliary_head_is_not_in_the_way(options: dict[str, Any]) -> None:
    """What it reads becomes narrower, and nothing makes it fit: it is not called."""
    result = pruned(WithAuxiliaryHead(), **options)
    assert result.model.module.first[0].out_channels < 8
    assert result.model.run(torch.zeros(2, 1, 8, 8))[0].shape == (2, tiny_gates.CLASSES)


def test_layers_that_put_out_something_else_in_training_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        CompressError, match=r"^gates: in training .* \[\(1, 4\), \(1, 4\)\], and \[\(1, 4\)\] in eval"
    ):
        pruned(tiny_gates.network(Twice()))


def test_the_loss_names_outputs_that_no_teacher_has() -> None:
    student, x = tiny_gates.network(Twice()).train(), (torch.zeros(6, 1, 8, 8),)
    teacher = Teacher(frozen(tiny_gates.network(), []))
    likeness = Likeness([teacher], Task(classification=True, variances=(1.0,)))
    with pytest.raises(CompressError, match=r"\[\(6, 4\), \(6, 4\)\], which are 2, and 1 in evaluation"):
        likeness.loss(
            Tapped(student, [])(*x), likeness.answers(x), torch.zeros(6).long(), Draws(0, 0, 6, range(6))
        )
