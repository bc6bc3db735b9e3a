"""Gates trained into the digits CNN by a job that may kill its process."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from edgepress.model import Model
from edgepress.passes.channels.dissect import Dissected, Rules, dissect
from edgepress.passes.channels.gated import Gated
from edgepress.passes.gating.cost import MacsCost
from edgepress.passes.gating.gate import Gate, Gradient
from edgepress.passes.gating.objective import Gating, Ramp
from edgepress.passes.teaching.likeness import Likeness, Teacher
from edgepress.passes.teaching.taps import Tapped, frozen
from edgepress.passes.teaching.task import first_batch, read_task
from edgepress.passes.training.options import TrainingOptions
from edgepress.passes.training.stage import Stages
from safetensors.torch import save_file
from slim_job import context_in, trained_cnn

OPTIONS = TrainingOptions(epochs=6, batch=16, lr=1e-3, checkpoint_seconds=0, keep="last")
UNITS = ("stem.0", "blocks.0.first.0", "blocks.3.depthwise.0")
TARGET = 0.6


def dissected() -> Dissected:
    """Three units of the CNN, so that it takes no time to try them out."""
    model = Model(trained_cnn(), (torch.zeros(2, 1, 32, 32),))
    return dissect(model, "gates", Rules(only=UNITS))


def objective_over(folder: Path, gradient: Gradient = "constant", step: int | None = None) -> Gating:
    context = context_in(folder / "scratch", step)
    found, teacher = dissected(), trained_cnn()
    gates = {unit.name: Gate(unit.size, gradient) for unit in found.anatomy.units}
    for gate in gates.values():
        gate.start(torch.arange(1, len(gate.u) + 1) / len(gate.u))
    inputs, labels = first_batch(context.data.calibration, 16, None)
    task = read_task([teacher(*inputs)], labels, used_by="gates")
    likeness = Likeness([Teacher(frozen(teacher, []))], task, teacher_weight=0.5)
    network = Tapped(Gated(trained_cnn(), found, gates), [])
    return Gating(network, likeness, MacsCost(found.anatomy), Ramp(1.0, TARGET), gate_lr=60.0)


def run(folder: Path, step: int | None = None) -> Gating:
    """Train in a folder, from what an earlier run left in it; write all that the network holds, and the history.

    Kills the process with SIGKILL before step `step`.
    """
    context = context_in(folder / "scratch", step)
    objective = objective_over(folder, step=step)
    stages = Stages("slim", context.data.train, context, None)
    notes = stages.train("gates", objective, OPTIONS)
    save_file(objective.network.state_dict(), folder / "weights.safetensors")
    (folder / "told.json").write_text(json.dumps([notes, stages.histories]))
    return objective
