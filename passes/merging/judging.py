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
from .blocks import TokenBlocks
from .replay import Replay
from .token_batch import TokenBatch

WORK = 8e11
"""Multiply-accumulates that a network may take on the samples: some ten seconds on two cores, less in a search."""
FEWEST, MOST = 32, 256
"""Samples that one look takes."""
BATCH = 16
SMALLEST = 1e-12
"""Of a variance."""


@dataclass(frozen=True)
class Judge:
    """Some samples, in batches, each with what the whole network puts out.

    place: of the network's blocks. read: how many of the tokens behind them count, None for all. replay: of the same
    batches; tokens: what the whole network's blocks return there, (n, read, width) each.
    """

    model: Model
    task: Task
    place: str
    read: int | None
    batches: Sequence[tuple[tuple[Tensor, ...], tuple[Tensor, ...]]]
    replay: Replay
    tokens: Sequence[Tensor]

    @property
    def samples(self) -> int:
        """How many there are."""
        return sum(len(inputs[0]) for inputs, _ in self.batches)

    def outputs_unlike(self, network: nn.Module) -> float:
        """KL divergence of logits in nats, squared error over variance of other outputs; mean over samples."""
        run = replace(self.model, module=network).in_batches()[0]
        found = [
            unlikeness(run(*inputs), outputs, self.task, temperature=1.0) for inputs, outputs in self.batches
        ]
        return float(torch.cat(found).double().mean())

    def tokens_unlike(self, network: nn.Module) -> float:
        """Squared error over variance of the tokens that outputs are made of; geometric mean over samples.

        A sample tells far more by these than by the logits of a few classes. By a plain mean the few samples that are
        furthest off would decide, and a search would find what suits these.
        """
        errors = [
            (found[: len(tokens), : self.read] - tokens).double().square().flatten(1).mean(1)
            for found, tokens in zip(
                self.replay.returned(_blocks(network, self.place)), self.tokens, strict=True
            )
        ]
        return float(torch.cat(errors).clamp(min=SMALLEST).log().mean().exp()) / self._variance

    @cached_property
    def _variance(self) -> float:
        tokens = torch.cat(list(self.tokens)).double()
        return max(float((tokens - tokens.mean(0)).square().mean()), SMALLEST)


def judge_on(
    part: Part, whole: Model, context: PassContext, macs: float, place: str, read: int | None, most_bytes: int
) -> Judge:
    """A judge by as many samples of a part as can be afforded, picked at random, the same ones in every process.

    whole: the network with TokenBlocks at `place`, which now keep all tokens. macs: of one sample. most_bytes: of
    tokens that may be remembered, to judge many networks.
    """
    inputs, labels = first_batch(context.data.calibration, TASK_SAMPLES, whole.static_batch)
    task = read_task(whole.run(*inputs), labels, None)
    count = int(max(FEWEST, min(MOST, WORK / max(macs, 1.0))))
    order = torch.randperm(len(part), generator=generator(context.seed, "tokens", part.name))
    picked = part.picked(order[:count].tolist())
    run, size = whole.in_batches(BATCH)
    blocks, given = _blocks(whole.module, place), list[TokenBatch]()

    def keep(_: nn.Module, by_place: tuple[Tensor, ...], named: dict[str, Tensor | None]) -> None:
        features = by_place[0] if by_place else named["features"]
        assert features is not None
        given.append(blocks.entered(features, named.get("rope")))

    handle = blocks.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        batches = [(x, run(*x)) for x, _ in picked.batches(size)]
    finally:
        handle.remove()
    replay = Replay(given, most_bytes)
    returned = zip(replay.returned(blocks), batches, strict=True)
    tokens = [found[: len(x[0]), :read].clone() for found, (x, _) in returned]
    return Judge(whole, task, place, read, batches, replay, tokens)


def _blocks(network: nn.Module, place: str) -> TokenBlocks:
    blocks = network.get_submodule(place)
    assert isinstance(blocks, TokenBlocks)
    return blocks
