"""The phases of `l2`: units by importance, the step that meets the target, and training under the rate."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from torch import fx

from ...calibration.data import Part
from ...calibration.metric import padded
from ...errors import CompressError
from ...model import CodedTensor, Model
from ..base import PassContext, PassPlan
from ..distillation.features import pair
from ..distillation.objective import Distillation, Teacher
from ..distillation.taps import Tapped, frozen
from ..distillation.task import read_task
from ..quantization.capture import capture
from ..quantization.operators import set_tensor
from ..training.job import Job
from ..training.loop import train
from ..training.parallel import require_static_batch
from .coded import Codes, codes_for, insert_codes
from .counter import entropy_bits
from .importance import codable, expected_divergence, information, units
from .objective import Budget, Learns, UnderRate
from .rounding import rounded
from .stored import flat, rebuilt, uncoded

if TYPE_CHECKING:
    from ..l2 import L2

TASK_SAMPLES = 64
METRIC_BATCH = 16
STEP_RANGE = (2.0**-40, 2.0**20)
CLOSE = 0.002
"""A search for a size ends this near below its target."""
MOST_STRENGTH = 3.0
MOST_REST = 0.8
"""Of the target that graph, tables and values may take."""


FIRST_RATIO, LAST_RATIO, RUNG = 5.0, 200.0, 1.4
"""The search for the smallest file begins there, ends there, and goes on by this factor."""


@dataclass
class Coding:
    """A network whose tensors are codes."""

    network: fx.GraphModule
    codes: dict[str, Codes]

    def coded(self, strength: float = 0.0) -> dict[str, CodedTensor]:
        """What is stored of every tensor, `strength` being that of the rate in rounding."""
        return {name: each.coded(rounded(each, strength)) for name, each in self.codes.items()}


@dataclass(frozen=True)
class Compressed:
    """A coding rounded to its target: what is stored, and the bytes of the file with it."""

    coding: Coding
    stored: dict[str, CodedTensor]
    size: int

    def model(self, before: Model) -> Model:
        """The model `before` with it."""
        return rebuilt(before, self.stored, uncoded(self.coding.network, self.stored))


class Phases:
    """One run of the pass over one model."""

    def __init__(self, options: L2, model: Model, context: PassContext) -> None:
        self.options, self.model, self.context = options, model, context
        self.static_batch = None if model.dynamic_batch else int(model.example_inputs[0].shape[0])
        self.notes: list[str] = []
        self.histories: dict[str, Any] = {}
        self.graph = capture(model)
        self.teacher = copy.deepcopy(self.graph)
        self.rung = 0
        self.axes = codable(self.graph)
        self.part = self._part()
        inputs, labels = self.part.batch(range(self.static_batch or min(TASK_SAMPLES, len(self.part))))
        self.task = read_task(model.run(*inputs), labels, labels_used=False)
        self.float_bytes = model.float_original.facts().bytes
        if context.packed_bytes is None:
            raise CompressError("l2: it needs to know what a packed file takes: run it from a recipe")
        self.packed_bytes: Callable[[Model], int] = context.packed_bytes

    def _part(self) -> Part:
        """Samples to learn from; nobody looks at their labels."""
        data = self.context.data
        part = data.train if self.options.samples == "train" and len(data.train) else data.calibration
        if len(part) < (self.static_batch or 1):
            raise CompressError(f"l2: the {part.name} part of the data has {len(part)} samples; give it more")
        return part

    def plan(self) -> PassPlan:
        """All phases, one after another."""
        if self.options.max_drop is not None:
            found = self._smallest(self.options.max_drop)
        else:
            found = self._compressed(self.options.bytes or self.float_bytes / self.options.ratio)
        stored, size = found.stored, found.size
        self.notes.insert(
            0,
            f"{size:,} bytes packed, {self.float_bytes / size:.1f}x smaller than the float weights"
            f" ({self.float_bytes:,}): {len(stored)} tensors as codes",
        )
        return PassPlan(
            {"axes": {name: each.axis for name, each in stored.items()}, "bytes": size},
            flat(stored) | uncoded(found.coding.network, stored),
            notes=tuple(self.notes),
            details=self._details(stored),
        )

    def _compressed(self, target: float) -> Compressed:
        coding = self._start(target)
        if self._train("transforms", coding, target):
            self._weigh(coding, coding.coded())
        self._train("weights", coding, target)
        return self._rounded(coding, target)

    def _smallest(self, max_drop: float) -> Compressed:
        """From rung to rung smaller, each trained on from the one before, as long as the metric allows."""
        before = self._metric(self.model)
        ratio, best = FIRST_RATIO, None
        while ratio <= LAST_RATIO:
            found = self._compressed(self.float_bytes / ratio)
            drop = 100 * (before - self._metric(found.model(self.model)))
            self.context.progress.say(f"  l2: at {ratio:.1f}x the validation part loses {drop:+.2f} points")
            if drop > max_drop:
                break
            best = found
            self.notes.append(f"{ratio:.1f}x loses {drop:+.2f} points on the validation part")
            self._go_on_from(found.coding)
            ratio *= RUNG
        if best is None:
            raise CompressError(
                f"l2: {ratio:.0f}x loses more than {max_drop} points on the validation part; set a smaller ratio, or"
                " train longer"
            )
        return best

    def _metric(self, model: Model) -> float:
        batch = self.static_batch or METRIC_BATCH
        forward = padded(model.run, batch) if self.static_batch else model.run
        return self.context.metric.measure(forward, self.context.data.validation, batch).value

    def _go_on_from(self, coding: Coding) -> None:
        """The next rung starts from the weights that learned, before they were rounded."""
        for name, each in coding.codes.items():
            set_tensor(self.graph, name, (each.latent * each.unit).detach().clone())
        for name, tensor in uncoded(coding.network, coding.codes).items():
            set_tensor(self.graph, name, tensor)
        self.rung += 1

    # -- before training

    def _start(self, target: float) -> Coding:
        """The network on the grids that meet the target without any training."""
        options, batch = self.options, self.static_batch or 8
        self.context.progress.say("l2: how much the outputs depend on each weight")
        fisher = information(
            self.graph,
            list(self.axes),
            self.part.head(options.importance_samples),
            batch,
            self.context.seed,
            self.task.classification,
        )
        self.rest = 0.0  # bytes of the file beside the codes at their entropy
        for _ in range(2):  # the rest of the file depends on the codes a little
            if self.rest > MOST_REST * target:
                raise CompressError(
                    f"l2: {target:,.0f} bytes cannot be reached: the graph and what else is no code take"
                    f" {self.rest:,.0f}; ask for a larger file"
                )
            low, high = STEP_RANGE
            while high / low > 1 + CLOSE:
                step = math.sqrt(low * high)
                codes = codes_for(self.graph, units(self.graph, self.axes, fisher, step), options.transform)
                bits = sum(entropy_bits(each.symbols()) for each in codes.values())
                low, high = (low, step) if bits / 8 + self.rest <= target else (step, high)
            coding = Coding(insert_codes(self.graph, codes), codes)
            self._weigh(coding, coding.coded())
        self.divergence = expected_divergence(fisher, {n: each.unit for n, each in codes.items()})
        return coding

    def _weigh(self, coding: Coding, stored: Mapping[str, CodedTensor]) -> int:
        """The bytes of the file with these codes; what they are beside the codes' entropy is kept for estimates."""
        size = self.packed_bytes(rebuilt(self.model, stored, uncoded(coding.network, stored)))
        self.rest = size - _bits(stored) / 8
        return size

    # -- training

    def _train(self, learns: Learns, coding: Coding, target: float) -> bool:
        """Whether there was anything to train."""
        options, context = self.options, self.context
        training = options.training
        if learns == "transforms":
            training = training.model_copy(
                update={"epochs": options.transform_epochs, "lr": options.transform_lr}
            )
        if training.epochs == 0:
            return False
        require_static_batch("l2", training, self.static_batch)
        objective = self._objective(learns, coding, target)
        job = Job(
            f"l2, {learns}", objective, self.part, training, context.seed, context.device, context.folder
        )
        name = f"{learns}-{self.rung}" if self.rung else learns
        checkpoint = context.scratch / f"{name}.safetensors" if context.scratch is not None else None
        history = train(job, None, checkpoint, context.progress)
        self.histories[name] = asdict(history)
        return True

    def _objective(self, learns: Learns, coding: Coding, target: float) -> UnderRate:
        options = self.options
        ours, theirs = self._paired(coding.network) if options.feature_weight else ([], [])
        distillation = Distillation(
            network=Tapped(coding.network, ours),
            teachers=[Teacher(frozen(self.teacher, theirs))],
            task=self.task,
            temperature=options.temperature,
            teacher_weight=1.0,
            feature_weight=options.feature_weight,
        )
        budget = Budget(
            bits=8 * (target - self.rest),
            # At the best rate each bit a weight divides the divergence by four.
            weight=options.rate_weight * 2 * math.log(2) * self.divergence,
            kernel=options.kernel,
            width=options.kernel_width,
        )
        return UnderRate(distillation, learns, budget)

    def _paired(self, network: fx.GraphModule) -> tuple[list[str], list[str]]:
        """Blocks whose outputs are compared, none in a network that has no repeated ones."""
        example, _ = self.part.batch(range(self.static_batch or 1))
        try:
            return pair(network, self.teacher, example, None)
        except CompressError:
            note = "no intermediate outputs are compared: the network has no numbered blocks"
            self.notes += [note] if note not in self.notes else []
            return [], []

    # -- after training

    def _rounded(self, coding: Coding, target: float) -> Compressed:
        """Codes rounded for the rate as much as the target asks for, and not more than is good for the error."""
        stored = coding.coded()
        size = self._weigh(coding, stored)
        low = 0.0
        while size > target and low < MOST_STRENGTH:
            high = MOST_STRENGTH
            while high - low > 0.01:
                middle = (low + high) / 2
                fits = _bits(coding.coded(middle)) / 8 + self.rest <= target
                low, high = (low, middle) if fits else (middle, high)
            stored, low = coding.coded(high), high
            size = self._weigh(coding, stored)
        if size > target:
            self.notes.append(f"the file is {size / target - 1:.1%} larger than its target")
        return Compressed(coding, stored, size)

    def _details(self, stored: Mapping[str, CodedTensor]) -> dict[str, Any]:
        rows = []
        for name, each in stored.items():
            bits = entropy_bits(each.indices)
            zero = (each.values == 0).nonzero()
            zeros = float((each.indices == int(zero[0])).float().mean()) if len(zero) else 0.0
            rows.append(
                {
                    "tensor": name,
                    "weights": each.indices.numel(),
                    "bits_per_weight": bits / each.indices.numel(),
                    "zeros": zeros,
                    "values": len(each.values),
                }
            )
        return {"training": self.histories, "tensors": rows}


def _bits(stored: Mapping[str, CodedTensor]) -> float:
    return sum(entropy_bits(each.indices) for each in stored.values())
