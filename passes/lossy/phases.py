"""The phases of `l2`: where it starts, training under the rate, and rounding to the target."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from ...calibration.data import Part
from ...errors import CompressError
from ...model import CodedTensor, Model
from ..base import PassContext, PassPlan
from ..graph.capture import capture
from ..graph.operators import set_tensor
from ..teaching.features import has_blocks, pair
from ..teaching.likeness import Likeness, Teacher
from ..teaching.taps import Tapped, frozen
from ..teaching.task import TASK_SAMPLES, first_batch, read_task
from ..training.stage import Stages
from .compensation import compensable, second_moments
from .importance import codable, expected_divergence, information
from .integers import integers_of, read_plainly
from .objective import Budget, Learns, UnderRate
from .options import L2Options
from .start import Coding, File, Start, bits_of
from .stored import bits_taken, flat, rebuilt, symbols_of, wide_in

MOST_STRENGTH = 3.0
SMALLER = 0.02
"""A file that ends further below its target is told of."""


@dataclass(frozen=True)
class Compressed:
    """A coding rounded to its target: what is stored, the bytes of the file with it, and what a user should know."""

    coding: Coding
    stored: dict[str, CodedTensor]
    size: int
    notes: tuple[str, ...]

    def model(self, before: Model) -> Model:
        """The model `before` with it."""
        return rebuilt(before, self.stored, wide_in(self.coding.codes))


class Phases:
    """One run of the pass over one model."""

    def __init__(self, options: L2Options, model: Model, context: PassContext) -> None:
        self.options, self.model, self.context = options, model, context
        self.static_batch = model.static_batch
        self.notes: list[str] = []
        captured = capture(model)
        self.integers = integers_of(captured)
        self.graph = read_plainly(captured, self.integers)
        self.teacher = copy.deepcopy(self.graph)
        self.axes = codable(self.graph) | {name: each.axis for name, each in self.integers.items()}
        self.part = self._part()
        self.stages = Stages(options.name, self.part, context, self.static_batch, labelled=False)
        inputs, labels = first_batch(self.part, TASK_SAMPLES, self.static_batch)
        self.task = read_task(model.run(*inputs), labels, used_by=None)
        self.float_bytes = model.float_original.facts().bytes
        if not self.axes:
            raise CompressError(
                "l2: the network has no weights that could become codes: all are buffers, integers, NaN or infinite;"
                " leave l2 out, and pack the model as it is"
            )
        if context.packed_bytes is None:
            raise CompressError("l2: it needs to know what a packed file takes: run it from a recipe")
        self.file = File(model, context.packed_bytes)

    def _part(self) -> Part:
        """Samples to learn from; nobody looks at their labels."""
        data, samples = self.context.data, self.options.samples
        part = data.calibration if samples == "calibration" or not len(data.train) else data.train
        if samples == "both" and part is data.train:
            part = part.joined(data.calibration)
        if len(part) < (self.static_batch or 1):
            raise CompressError(f"l2: the {part.name} part of the data has {len(part)} samples; give it more")
        return part

    def planned(self, found: Compressed) -> PassPlan:
        """What is stored of the pass, when `found` is the network that it returns."""
        stored, size = found.stored, found.size
        first = (
            f"{size:,} bytes packed, {self.float_bytes / size:.1f}x smaller than the float weights"
            f" ({self.float_bytes:,}): {len(stored)} tensors as codes"
        )
        return PassPlan(
            {"axes": {name: each.axis for name, each in stored.items()}, "bytes": size},
            flat(stored) | wide_in(found.coding.codes),
            notes=(first, *self.notes, *found.notes),
            details=self._details(stored),
        )

    def compressed(self, target: float) -> Compressed:
        """The network in a file of so many bytes; OutOfReachError where none is so small."""
        start = self._start()
        coding = start.nearest(target)
        self.file.weigh(coding, coding.coded())
        coding = start.nearest(target)
        self._train("transforms", coding, start, target)
        coding = start.compensated(coding, target)
        self._train("weights", coding, start, target)
        return self._rounded(coding, target)

    def _start(self) -> Start:
        """What is seen of the network before any training."""
        options, batch = self.options, self.static_batch or 8
        part = self.part.head(max(options.importance_samples, self.static_batch or 1))
        fisher = information(
            self.graph, list(self.axes), part, batch, self.context.seed, self.task, self.context.progress
        )
        layers = compensable(self.graph, self.axes)
        return Start(
            graph=self.graph,
            axes=self.axes,
            integers=self.integers,
            fisher=fisher,
            moments=second_moments(self.graph, layers, part, batch),
            transform=options.transform,
            file=self.file,
            progress=self.context.progress,
        )

    def start_from(self, coding: Coding) -> None:
        """Begin the next time with the weights that learned, before they were rounded."""
        for name, each in coding.codes.items():
            set_tensor(self.graph, name, (each.latent * each.unit).detach().clone())

    # -- training

    def _train(self, learns: Learns, coding: Coding, start: Start, target: float) -> None:
        options, training = self.options, self.options.training
        if learns == "transforms":
            training = training.model_copy(
                update={"epochs": options.transform_epochs, "lr": options.transform_lr}
            )
        codes = coding.codes.values()
        learning = [each for each in codes if learns == "weights" or not (each.wide or each.on_grid)]
        if training.epochs == 0 or not learning:
            return
        # The size is in the name so that a search that is resumed finds each one's own.
        self.notes += self.stages.train(
            learns,
            self._objective(learns, coding, start, target),
            training,
            kept_as=f"{learns}-{target:.0f}",
        )

    def _objective(self, learns: Learns, coding: Coding, start: Start, target: float) -> UnderRate:
        options = self.options
        divergence = expected_divergence(start.fisher, {n: each.unit for n, each in coding.codes.items()})
        ours, theirs = self._paired(coding.network) if options.feature_weight else ([], [])
        likeness = Likeness(
            teachers=[Teacher(frozen(self.teacher, theirs))],
            task=self.task,
            temperature=options.temperature,
            teacher_weight=1.0,
            feature_weight=options.feature_weight,
        )
        budget = Budget(
            bits=8 * (target - self.file.rest),
            # At the best rate each bit a weight divides the divergence by four.
            weight=options.rate_weight * 2 * math.log(2) * divergence,
            kernel=options.kernel,
            width=options.kernel_width,
        )
        return UnderRate(Tapped(coding.network, ours), likeness, learns, budget)

    def _paired(self, network: fx.GraphModule) -> tuple[list[str], list[str]]:
        """Blocks whose outputs are compared, none in a network that has no repeated ones."""
        example, _ = first_batch(self.part, 1, self.static_batch)
        if not has_blocks(network, example):
            note = (
                "no intermediate outputs are compared: the network has no numbered blocks with maps or tokens"
            )
            self.notes += [note] if note not in self.notes else []
            return [], []
        return pair(network, self.teacher, example, None, "l2")

    # -- after training

    def _rounded(self, coding: Coding, target: float) -> Compressed:
        """Codes rounded for the rate as much as the target asks for, and not more than is good for the error."""
        stored = coding.coded()
        size = self.file.weigh(coding, stored)
        low = 0.0
        while size > target and low < MOST_STRENGTH:
            high = MOST_STRENGTH
            while high - low > 0.01:
                middle = (low + high) / 2
                fits = self.file.estimate(bits_of(coding.coded(middle))) <= target
                low, high = (low, middle) if fits else (middle, high)
            stored, low = coding.coded(high), high
            size = self.file.weigh(coding, stored)
        notes = []
        if not 1 - SMALLER <= size / target <= 1:
            far = "larger" if size > target else "smaller"
            notes.append(f"the file is {abs(size / target - 1):.1%} {far} than its target")
        return Compressed(coding, stored, size, tuple(notes))

    def _details(self, stored: Mapping[str, CodedTensor]) -> dict[str, Any]:
        rows = []
        for name, each in stored.items():
            bits, symbols = bits_taken(each), symbols_of(each)
            rows.append(
                {
                    "tensor": name,
                    "weights": each.indices.numel(),
                    "bits_per_weight": bits / each.indices.numel(),
                    "zeros": float((symbols == 0).float().mean()),
                    "values": int(torch.bincount(each.indices.reshape(-1)).count_nonzero()),
                }
            )
        return {"training": self.stages.histories, "tensors": rows}
