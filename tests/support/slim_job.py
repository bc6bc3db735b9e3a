"""A pass of no name that trains gates into the digits CNN, and may kill its process.

It brings what a pass has of its own, and no more: a module with parameters, which of them learn, a term of the loss and
what changes while it trains.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from edgepress.calibration.data import DataParts, Part
from edgepress.calibration.metric import TopK
from edgepress.examples import digits as digits_example
from edgepress.examples.digits.data import digits
from edgepress.examples.digits.models import cnn
from edgepress.passes.base import PassContext
from edgepress.passes.teaching.likeness import Likeness, Teacher
from edgepress.passes.teaching.taps import Tapped, frozen
from edgepress.passes.teaching.task import first_batch, read_task
from edgepress.passes.teaching.taught import Taught
from edgepress.passes.training.job import Group
from edgepress.passes.training.options import TrainingOptions
from edgepress.passes.training.schedule import Moment
from edgepress.passes.training.stage import Stages
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from training_job import Killed

OPTIONS = TrainingOptions(epochs=3, batch=16, lr=1e-3, checkpoint_seconds=0, keep="last")
SIZES = {"train": 64, "calibration": 32, "validation": 50}


class Gated(nn.Module):
    """A block and a gate for each of its channels, open at the start."""

    def __init__(self, block: nn.Module, channels: int) -> None:
        super().__init__()
        self.block, self.gates = block, nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.block(x)
        return y * self.gates.view(1, -1, 1, 1)


@dataclass
class Slim(Taught):
    """Likeness to the network as it was, with gates half closed at the end; the head follows them."""

    open: float = 1.0
    """The mean that the gates are to have."""

    def groups(self) -> list[Group]:
        head = self.network.network.get_submodule("head")
        return [Group(self.gates, 20.0, decay=False), Group(list(head.parameters()))]

    def schedule(self, now: Moment) -> None:
        self.open = 1.0 - 0.5 * now.share

    def terms(self) -> dict[str, Tensor]:
        return {"open": 100 * (torch.cat(self.gates).mean() - self.open).square()}

    @property
    def gates(self) -> list[nn.Parameter]:
        return [module.gates for module in self.network.modules() if isinstance(module, Gated)]


def trained_cnn() -> nn.Module:
    network = cnn()
    network.load_state_dict(load_file(Path(digits_example.__file__).parent / "cnn.safetensors"))
    return network


def context_in(scratch: Path, step: int | None = None) -> PassContext:
    parts = {}
    for name, (x, y) in digits().items():
        rows = [((image,), label) for image, label in zip(x, y, strict=True)]
        parts[name] = Part(name, rows[: SIZES.get(name, 0)])
    data = DataParts(parts["train"], parts["calibration"], parts["validation"], None, manifest="0")
    return PassContext(data, TopK(1), scratch=scratch, progress=Killed(step, "slim"))


def objective_over(context: PassContext) -> Slim:
    network, teacher = trained_cnn(), trained_cnn()
    inputs, labels = first_batch(context.data.calibration, 16, None)
    task = read_task([teacher(*inputs)], labels, used_by="slim")
    blocks = network.get_submodule("blocks")
    for name, channels in (("1", 64), ("3", 96)):
        setattr(blocks, name, Gated(blocks.get_submodule(name), channels))
    likeness = Likeness([Teacher(frozen(teacher, ["blocks.3"]))], task, teacher_weight=0.5)
    return Slim(Tapped(network, ["blocks.3"]), likeness)


def run(folder: Path, step: int | None = None) -> Slim:
    """Train in a folder, from what an earlier run left in it; write weights, and what the report would be told.

    Kills the process with SIGKILL before step `step`.
    """
    context = context_in(folder / "scratch", step)
    objective = objective_over(context)
    stages = Stages("slim", context.data.train, context, None)
    notes = stages.train("gates", objective, OPTIONS, judged=objective.outputs)
    save_file(objective.network.network.state_dict(), folder / "weights.safetensors")
    (folder / "told.json").write_text(json.dumps([notes, stages.histories]))
    return objective
