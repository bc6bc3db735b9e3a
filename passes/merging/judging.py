"""How unlike the whole network's what one with fewer tokens computes is, on some samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

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
FEWEST, MOST = 32, 256
"""Samples that one look takes."""
BATCH = 16
SMALLEST = 1e-12
"""Of a variance."""


Computed = tuple[tuple[Tensor, ...], Tensor]
"""Outputs of a batch, and the tokens that they are made of, (n, read, width)."""


@dataclass(frozen=True)
class Judge:
    """Some samples, in batches, each with what the whole network computes of it.

    place: of the network's blocks. read: how many of the tokens behind them count, None for all.
    """

    model: Model
    task: Task
    place: str
    read: int | None
    batches: Sequence[tuple[tuple[Tensor, ...], Computed]]

    @property
    def samples(self) -> int:
        """How many there are."""
        return sum(len(inputs[0]) for inputs, _ in self.batches)

    def outputs_unlike(self, network: nn.Module) -> float:
        """KL divergence of logits in nats, squared error over variance of other outputs; mean over samples."""
        found = [
            unlikeness(self._computed(network, inputs)[0], outputs, self.task, temperature=1.0)
            for inputs, (outputs, _) in self.batches
        ]
        return float(torch.cat(found).double().mean())

    def tokens_unlike(self, network: nn.Module) -> float:
        """Squared error over variance of the tokens that outputs are made of; mean over samples.

        A sample tells far more by these than by the logits of a few classes.
        """
        errors = [
            (self._computed(network, inputs)[1] - tokens).double().square().flatten(1).mean(1)
            for inputs, (_, tokens) in self.batches
        ]
        return float(torch.cat(errors).mean()) / self._variance

    @cached_property
    def _variance(self) -> float:
        tokens = torch.cat([tokens for _, (_, tokens) in self.batches]).double()
        return max(float((tokens - tokens.mean(0)).square().mean()), SMALLEST)

    def _computed(self, network: nn.Module, inputs: tuple[Tensor, ...]) -> Computed:
        return computed(replace(self.model, module=network), self.place, self.read, inputs)


def computed(model: Model, place: str, read: int | None, inputs: tuple[Tensor, ...]) -> Computed:
    """What a network with blocks at `place` computes of a batch, which may be shorter than a static one."""
    returned: list[Tensor] = []

    def keep(_: nn.Module, __: object, tokens: Tensor) -> None:
        returned.append(tokens[:, :read])

    handle = model.module.get_submodule(place).register_forward_hook(keep)
    try:
        outputs = model.in_batches()[0](*inputs)
    finally:
        handle.remove()
    return outputs, returned[0][: len(inputs[0])].clone()


def judge_on(
    part: Part, whole: Model, context: PassContext, macs: float, place: str, read: int | None
) -> Judge:
    """A judge by as many samples of a part as can be afforded, picked at random, the same ones in every process.

    whole: the network with TokenBlocks at `place`, which now keep all tokens. macs: of one sample.
    """
    inputs, labels = first_batch(context.data.calibration, TASK_SAMPLES, whole.static_batch)
    task = read_task(whole.run(*inputs), labels, None)
    count = int(max(FEWEST, min(MOST, WORK / max(macs, 1.0))))
    order = torch.randperm(len(part), generator=generator(context.seed, "tokens", part.name))
    picked = part.picked(order[:count].tolist())
    _, size = whole.in_batches(BATCH)
    batches = [(x, computed(whole, place, read, x)) for x, _ in picked.batches(size)]
    return Judge(whole, task, place, read, batches)
