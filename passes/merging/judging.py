"""How unlike the whole network's the outputs of one with fewer tokens are, on some samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ...calibration.data import Part
from ...model import Model
from ..base import PassContext
from ..teaching.likeness import unlikeness
from ..teaching.task import TASK_SAMPLES, Task, first_batch, read_task
from ..training.draws import generator

WORK = 2e11
"""Multiply-accumulates that one look at samples may take: about a second on two cores."""
FEWEST, MOST = 16, 256
"""Samples that one look takes."""
BATCH = 16


@dataclass(frozen=True)
class Judge:
    """Some samples, in batches, and what the whole network puts out for them."""

    model: Model
    task: Task
    batches: Sequence[tuple[tuple[Tensor, ...], tuple[Tensor, ...]]]

    @property
    def samples(self) -> int:
        """How many there are."""
        return sum(len(inputs[0]) for inputs, _ in self.batches)

    def unlike(self, network: nn.Module) -> float:
        """KL divergence of logits in nats, squared error over variance of other outputs; mean over samples."""
        forward, _ = replace(self.model, module=network).in_batches()
        found = [unlikeness(forward(*x), wanted, self.task, temperature=1.0) for x, wanted in self.batches]
        return float(torch.cat(found).double().mean())


def judge_on(part: Part, model: Model, context: PassContext, macs: float) -> Judge:
    """A judge by as many samples of a part as can be afforded, picked at random, the same ones in every process.

    macs: of one sample.
    """
    inputs, labels = first_batch(context.data.calibration, TASK_SAMPLES, model.static_batch)
    task = read_task(model.run(*inputs), labels, None)
    count = int(max(FEWEST, min(MOST, WORK / max(macs, 1.0))))
    order = torch.randperm(len(part), generator=generator(context.seed, "tokens", part.name))
    picked = part.picked(order[:count].tolist())
    forward, size = model.in_batches(BATCH)
    return Judge(model, task, [(x, forward(*x)) for x, _ in picked.batches(size)])
