"""What the phases of `gates` learn from and judge by: the task, samples, and the whole network's outputs on them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor, nn

from ...calibration.data import Part
from ...errors import CompressError
from ...model import Model
from ..base import PassContext
from ..channels.dissected import Dissected
from ..channels.gated import fixed
from ..channels.units import Gates
from ..teaching.information import drawn_log_likelihoods
from ..teaching.likeness import Likeness, Teacher, unlikeness
from ..teaching.taps import frozen
from ..teaching.task import TASK_SAMPLES, first_batch, read_task
from ..training.draws import generator
from .importance import Loss
from .matters import where_it_matters
from .options import GatesOptions
from .whole_outputs import Batch

WORK = 2e11
"""Multiply-accumulates that one look at samples may take: about a second on two cores."""
FEWEST, MOST = 128, 256
"""Samples that importance is taken of, and that what decides is judged by, where there are so many."""
HELD = 2**28
"""Numbers of inputs and outputs of these that are held at once; fewer samples are looked at where they are larger."""
FEWEST_TRIED, MOST_TRIED = 32, 128
"""The fewest and the most on which one change of many is tried, in whole batches: of half of the validation part; so
many others at least confirm what was chosen."""
SMALL = 8
"""Samples of which all layers' outputs are held at once."""
FITTED = 0.75
"""Share of a regression's samples that it is fitted to; the others choose its strength."""
BATCH = 32
Judged = tuple[Batch, tuple[Tensor, ...]]
"""Inputs, and what the whole network puts out for them."""


class Lessons:
    """The task of the whole network; samples to fit to, to choose by (calibration), and to judge by (validation).

    They are picked at random, the same ones in every process.
    """

    def __init__(self, options: GatesOptions, model: Model, context: PassContext, macs: float) -> None:
        """macs: of one sample."""
        self.options, self.model, self.seed = options, model, context.seed
        calibration, validation = (
            self._mixed(p) for p in (context.data.calibration, context.data.validation)
        )
        self._require_a_batch(calibration)
        inputs, labels = first_batch(calibration, TASK_SAMPLES, model.static_batch)
        used_by = options.name if options.teacher_weight < 1 else None
        outputs = model.run(*inputs)
        self.task = read_task(outputs, labels, used_by)
        affordable = WORK / max(macs, 1.0)
        numbers = sum(x[:1].numel() for x in (*inputs, *outputs))
        self.samples = int(max(FEWEST_TRIED, min(MOST, max(FEWEST, affordable), HELD / numbers)))
        part = max(1, int(FITTED * min(len(calibration), self.samples)))
        self.fit = list(self._even_batches(calibration.head(part)))
        self.choose = list(self._batches(calibration.between(part, part + max(1, part // 3)), BATCH))
        self.held_out = list(self._batches(validation.head(self.samples), BATCH))
        self.each = list(self._whole_batches(calibration.head(max(self.samples, model.static_batch or 1)), 1))
        self._wanted = [self._run(model.module, batch) for batch in self.held_out]
        batch = model.static_batch or BATCH
        tried = int(min(MOST_TRIED, max(FEWEST_TRIED, affordable)))
        self._tried = min(-(-tried // batch), max(1, -(-len(validation) // batch) // 2))
        first = sum(len(batch[0]) for batch in self.held_out[: self._tried])
        unseen = self.samples if len(validation) >= self.samples + self.samples // 2 else first
        self._beyond = validation.between(unseen, unseen + self.samples)

    @property
    def can_fit(self) -> bool:
        """Whether there are samples to measure statistics of and to fit to, and others to choose by."""
        return bool(self.fit and self.choose) and len(self.fit[0][0]) > 1

    def likeness(self) -> Likeness:
        """To the network as it was, and to the labels."""
        return Likeness(
            [Teacher(frozen(self.model.module, []))],
            self.task,
            self.options.temperature,
            self.options.teacher_weight,
        )

    def unlike(self, network: nn.Module) -> float:
        """How unlike the whole network's outputs those of another one are, on samples that nothing was fitted to.

        The KL divergence in nats of logits, the squared error over the variance of other outputs; means over samples.
        """
        return self._unlike(network, list(zip(self.held_out, self._wanted, strict=True)))

    def unlike_where_tried(self, network: nn.Module) -> float:
        """The same on the first of them, by which one change of many is chosen."""
        return self._unlike(network, list(zip(self.held_out, self._wanted, strict=True))[: self._tried])

    def unlike_on_others(self, network: nn.Module) -> float:
        """The same on `others`."""
        return self._unlike(network, self.others)

    @cached_property
    def others(self) -> list[Judged]:
        """Held-out samples beyond those that single changes are tried on; none where that leaves but a few.

        Beyond all that structures and refits are judged on, where validation has half as many again.
        """
        if len(self._beyond) < FEWEST_TRIED:
            return []
        batches = self._batches(self._beyond, BATCH)
        return [(batch, self._run(self.model.module, batch)) for batch in batches]

    def _unlike(self, network: nn.Module, judged: Sequence[Judged]) -> float:
        losses = [
            unlikeness(self._run(network, batch), wanted, self.task, temperature=1.0)
            for batch, wanted in judged
        ]
        return float(torch.cat(losses).double().mean())

    def importance_losses(self, dissected: Dissected) -> Iterator[Loss]:
        """One loss a sample, or the mean over a static batch, with all outputs drawn from the whole network's own.

        Half the mean square of their gradients in gates is, to second order, the divergence that closing these makes
        (the Fisher information); the divergence itself is at its least there, and has no gradient.
        """
        for index, inputs in enumerate(self.each):
            drawn = generator(self.seed, "importance", index)
            yield lambda gates, inputs=inputs, drawn=drawn: self._drawn_loss(dissected, gates, inputs, drawn)  # type: ignore[misc]

    def _drawn_loss(
        self, dissected: Dissected, gates: Gates, inputs: Batch, drawn: torch.Generator
    ) -> Tensor:
        return self._drawn(fixed(self.model.module, dissected, gates)(*inputs), drawn)

    @cached_property
    def matters(self) -> dict[str, Tensor]:
        """How much each position of a layer's outputs matters to the whole network's, by the layer's name."""
        small = [part for batch in self.fit for part in _in_parts(batch)]

        def likelihood(outputs: object, index: int) -> Tensor:
            drawn = self._drawn(outputs, generator(self.seed, "matters", index))
            return math.sqrt(len(small[index][0])) * drawn  # each sample as it is alone

        return where_it_matters(self.model.module, small, likelihood)

    def _drawn(self, outputs: object, drawn: torch.Generator) -> Tensor:
        """The log-likelihood of what is drawn from outputs, over the root of the number of draws."""
        given = tuple(outputs) if isinstance(outputs, (tuple, list)) else (outputs,)
        found = drawn_log_likelihoods(given, self.task, drawn)
        # Squares of gradients are to be means over the draws of each output, as the divergence is.
        each = [likelihood / math.sqrt(draws) for likelihood, draws in found]
        return torch.stack([*each, torch.zeros((), requires_grad=True)]).sum()

    def _mixed(self, part: Part) -> Part:
        """In an order that is the same in every process: a folder of images is read class by class."""
        order = torch.randperm(len(part), generator=generator(self.seed, "lessons", part.name))
        return part.picked(order.tolist())

    def _require_a_batch(self, calibration: Part) -> None:
        at_once = self.model.static_batch or 1
        if len(calibration) < at_once:
            raise CompressError(
                f"{self.options.name}: the calibration part has {len(calibration)} samples, and the network takes"
                f" {at_once} at once (export.dynamic_batch: false); give it as many (data.calibration_samples)"
            )

    def _run(self, network: nn.Module, batch: Batch) -> tuple[Tensor, ...]:
        forward, _ = replace(self.model, module=network).in_batches()
        return forward(*batch)

    def _even_batches(self, part: Part) -> Iterator[Batch]:
        """Batches of one size, as each counts as much as any other where statistics are the mean over them."""
        return self._whole_batches(part, len(part) // -(-len(part) // BATCH))

    def _whole_batches(self, part: Part, size: int) -> Iterator[Batch]:
        """Without a last one that is short, which a network of a static batch does not take."""
        size = self.model.static_batch or size
        return self._batches(part.head(len(part) // size * size), size)

    def _batches(self, part: Part, size: int) -> Iterator[Batch]:
        for inputs, _ in part.batches(self.model.static_batch or size):
            yield inputs


def _in_parts(batch: Batch) -> Iterator[Batch]:
    """A batch of at least two samples in parts of about as many each, none of a single one."""
    count = -(-len(batch[0]) // SMALL)
    yield from zip(*(torch.tensor_split(x, count) for x in batch), strict=True)
