"""One stage of a pass that trains: from what the pass brings to a network trained, resumed, judged and told of."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from ...calibration.data import Part
from ...errors import CompressError
from ...model import Forward, padded
from ..base import PassContext
from .first_steps import WELL, rate_that_fits
from .job import History, Job, Objective
from .loop import CHANGE, Evaluate, train
from .options import BUILT_IN, TrainingOptions
from .parallel import device_of, require_static_batch
from .precision import emulates_bf16

JUDGED_IN = 32  # samples at once, unless the batch is static


@dataclass(frozen=True)
class Stages:
    """The stages in which one pass trains, one after another.

    what: the pass, for messages and progress. part: the samples that are learned from. static_batch: the only number of
    samples that the network takes at once; None takes any. labelled: whether labels matter, which changes of inputs may
    then not belie. without_samples: what the user can do who has none to learn from. histories: what each stage did, by
    its name, as a plan's details hold it.
    """

    what: str
    part: Part
    context: PassContext
    static_batch: int | None
    labelled: bool = True
    without_samples: str = "set training.epochs: 0"
    histories: dict[str, Any] = field(default_factory=dict)

    def train(
        self,
        stage: str,
        objective: Objective,
        options: TrainingOptions,
        judged: Forward | None = None,
        kept_as: str | None = None,
    ) -> list[str]:
        """Train `objective.network` in place, from where a killed run left it; returns notes for the report.

        judged: runs the network as it is, for the recipe's metric of the validation part to choose the best epoch by;
        without it the last one is kept. kept_as: the name of the stage's checkpoint and history, where one pass takes
        the same stage several times. Raises CompressError for samples, batches and augmentations that cannot be.
        """
        self._require_samples(options)
        require_static_batch(self.what, options, self.static_batch)
        if self.labelled:
            self._require_true_labels(options)
        self._tell_of_emulation(options)
        context, name = self.context, kept_as or stage
        job = Job(
            f"{self.what}, {stage}",
            objective,
            self.part,
            options,
            context.seed,
            context.device,
            context.folder,
        )
        checkpoint = context.scratch / f"{name}.safetensors" if context.scratch is not None else None
        history = train(job, self._judge(judged) if judged else None, checkpoint, context.progress)
        if not history.epochs:
            return []
        self.histories[name] = asdict(history)
        return [self._note(stage, history, options.lr)] if judged else []

    def _judge(self, forward: Forward) -> Evaluate:
        context, batch = self.context, self.static_batch
        run = padded(forward, batch) if batch else forward

        def evaluate() -> tuple[float, float | None]:
            measured = context.metric.measure(run, context.data.validation, batch or JUDGED_IN).record
            return measured.value, measured.standard_error

        return evaluate

    def _require_samples(self, options: TrainingOptions) -> None:
        if options.epochs and not len(self.part):
            raise CompressError(
                f"{self.what}: it trains on the train part of the data, and there is none; give the data one (a part"
                f" named train, or data.split), or {self.without_samples}"
            )

    def _require_true_labels(self, options: TrainingOptions) -> None:
        _, label = self.context.data.calibration.samples[0]
        if label.dim() > 1 and (moved := [name for name in options.augment if name in BUILT_IN]):
            raise CompressError(
                f"{self.what}: training.augment {', '.join(moved)} moves images and not their labels, which are maps"
                " here; leave it out, or let the train part of the data change both"
            )

    def _tell_of_emulation(self, options: TrainingOptions) -> None:
        device = device_of(self.context.device)
        if options.epochs and options.amp == "bf16" and not self.histories and emulates_bf16(device):
            self.context.progress.say(
                f"  {self.what}: this CPU has no BF16 instructions and emulates them, many times slower than float32;"
                " without training.amp: bf16 it trains in float32"
            )

    def _note(self, stage: str, history: History, lr: float) -> str:
        """Which epoch was kept, and what it was worth; lr: the largest rate that it was trained at."""
        first, last = history.epochs[0], history.epochs[-1]
        kept = last if history.best is None else history.epochs[history.best]
        which = f"epoch {int(kept['epoch'])} of {len(history.epochs) - 1} kept"
        error = f", standard error {kept['metric_error']:.4f}" if "metric_error" in kept else ""
        stopped = ", stopped early" if history.stopped_early else ""
        if history.best == 0:
            stopped += f", as every epoch was clearly worse: {_try(lr, history)}"
        return (
            f"trained, {stage}: {which}{stopped}; {self.context.metric.name} {first['metric']:.4f} before,"
            f" {kept['metric']:.4f} after ({len(self.context.data.validation)} validation samples{error})"
        )


def _try(lr: float, history: History) -> str:
    """What to do where training did harm."""
    change = history.epochs[1].get(CHANGE, 0.0)
    if change <= WELL:
        return "try a smaller training.lr"
    return (
        f"its first steps were predicted to change the loss by {change:.2g} times what it was;"
        f" try training.lr: {rate_that_fits(lr, change):g}"
    )
