"""The training loop: the only one, whatever a pass trains.

Nothing random has a state: order, augmentation, dropout and stochastic rounding follow from seed, step and sample
(`draws`). A run that was killed therefore ends, on a CPU, with the very weights of one that was not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from ...errors import CompressError
from ...progress import Progress, Silent
from . import parallel
from .augment import augmented
from .checkpoint import Checkpoint, load, save, with_prefix, without_prefix
from .draws import Draws, generator, sample_order
from .first_steps import WATCHED, predicted_fall, weights_before
from .job import Forward, History, Job
from .optimizer import moments_of, optimizer_for, restore_moments
from .precision import mixed_precision, told_of_types
from .schedule import Moment, learning_rate

CHANGE = "first_change"
"""Of the first epoch: what its first steps were predicted to take off the loss, as a share of it (`first_steps`)."""
SAID_APART = ("epoch", "lr", "metric", "metric_error", CHANGE)
LEAST_LOSS = 1e-12
NETWORK, BEST, OPTIMIZER = "network/", "best/", "optimizer/"
Evaluate = Callable[[], tuple[float, float | None]]
"""The validation metric of the network as it is, higher is better, and its standard error, None if not known."""


def train(
    job: Job,
    evaluate: Evaluate | None = None,
    checkpoint: Path | None = None,
    progress: Progress = Silent(),
) -> History:
    """Train `job.objective.network` in place, on all processes that are joined.

    evaluate: without it the last epoch is kept. checkpoint: the file to resume from and to write to.
    Raises CompressError when the loss is not finite, or a batch cannot be shared out.
    """
    if job.options.epochs == 0:
        return History()
    parallel.announce(job, job.folder)
    return Trainer(job, evaluate, checkpoint, progress).run()


def take_part(job: Job) -> None:
    """What the other processes do while the first is in `train`."""
    Trainer(job, None, None, Silent()).run()


class Trainer:
    """One process's side of a training."""

    def __init__(
        self, job: Job, evaluate: Evaluate | None, checkpoint: Path | None, progress: Progress
    ) -> None:
        self.job, self.options, self.objective = job, job.options, job.objective
        self.evaluate, self.path, self.progress = evaluate, checkpoint, progress
        self.device = parallel.device_of(job.device)
        self.batch = parallel.shared_batch(job)
        self.steps_an_epoch = len(job.part) // self.batch
        self.steps = self.steps_an_epoch * self.options.epochs
        self.objective.to(self.device)
        self.network = self.objective.network
        self.optimizer = optimizer_for(self.objective, self.options)
        # After it is told what learns, as the other processes must know.
        self.forward: Forward = parallel.in_step(self.network, self.device)
        self.amp, self.scaler = mixed_precision(self.device, self.options.amp)
        self.step, self.sums, self.history = 0, dict[str, float](), History()
        self.best: dict[str, Tensor] = {}
        self.saved = time.monotonic()

    def run(self) -> History:
        """Train to the end, from the checkpoint if there is one."""
        with _deterministic(), torch.random.fork_rng():
            self._resume()
            if not self.history.epochs:
                self._end_epoch({})
            left = range(self.step, self.steps)
            for _ in self.progress.track(left, self.job.what, len(left), self._status):
                if self.history.stopped_early:
                    break
                self._take_step()
                if self.step % self.steps_an_epoch == 0:
                    self._end_epoch(self.sums)
                    self.sums = {}
                if time.monotonic() - self.saved >= self.options.checkpoint_seconds:
                    self._save()
            self._save()
        self.objective.schedule(self._now())
        if self.best:
            self.network.load_state_dict(self.best)
        self.objective.to(torch.device("cpu"))
        self.objective.training(False)
        return self.history

    def _take_step(self) -> None:
        """One optimizer step over one batch, in as many parts as asked for."""
        factor = learning_rate(self.step, self.steps, self.options.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor
        self.optimizer.zero_grad()
        watched = min(WATCHED, self.steps_an_epoch)
        before = weights_before(self.optimizer) if self.step < watched else None
        self.objective.schedule(self._now())
        self.objective.training(True)
        epoch, position = divmod(self.step, self.steps_an_epoch)
        order = sample_order(self.job.seed, epoch, len(self.job.part))
        chosen = order[position * self.batch : (position + 1) * self.batch]
        loss = 0.0
        for last, rows in self._shares():
            with nullcontext() if last else parallel.unsynchronized(self.forward):
                loss += self._add_gradients(
                    [chosen[i] for i in rows], Draws(self.job.seed, self.step, self.batch, rows)
                )
        if self.options.clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.network.parameters(), self.options.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if before is not None:
            change = predicted_fall(self.optimizer, before) / max(abs(loss), LEAST_LOSS)
            self.sums[CHANGE] = self.sums.get(CHANGE, 0.0) + change / watched
        self.step += 1

    def _now(self) -> Moment:
        return Moment(self.step, self.steps, self.steps_an_epoch)

    def _shares(self) -> Iterator[tuple[bool, range]]:
        """The rows of the batch that this process computes, one part after another, and whether it is the last."""
        count = self.options.accumulate
        size = self.batch // (count * parallel.processes())
        for part in range(count):
            start = (part * parallel.processes() + parallel.rank()) * size
            yield part == count - 1, range(start, start + size)

    def _add_gradients(self, indices: list[int], draws: Draws) -> float:
        """Add those of a part of a batch; returns its share of the batch's loss."""
        inputs, labels = self.job.part.batch(indices)
        inputs = augmented(inputs, self.options.augment, draws, self.job.folder)
        on_device = tuple(_channels_last(x.to(self.device)) for x in inputs)
        torch.manual_seed(generator(self.job.seed, self.step, "dropout", draws.rows.start).initial_seed())
        with self.amp(), told_of_types(self.job.what):
            parts = self.objective.loss(self.forward, on_device, labels.to(self.device), draws)
            loss = torch.stack(list(parts.values())).sum()
        told = {name: float(value.detach()) for name, value in [("loss", loss), *parts.items()]}
        if not math.isfinite(told["loss"]):
            raise CompressError(
                f"{self.job.what}: the loss is {told['loss']} at step {self.step} of {self.steps}"
                f" ({', '.join(f'{name} {told[name]:.3g}' for name in parts)});"
                " lower training.lr, or set training.clip_norm"
            )
        torch.autograd.backward(self.scaler.scale(loss / self.options.accumulate))
        share = 1 / (self.options.accumulate * self.steps_an_epoch)
        for name, value in told.items():
            self.sums[name] = self.sums.get(name, 0.0) + share * value
        return told["loss"] / self.options.accumulate

    def _end_epoch(self, sums: dict[str, float]) -> None:
        """Measure, note, keep the weights if none were better, and decide together whether to go on."""
        epoch = self.step // self.steps_an_epoch
        row = {"epoch": float(epoch), "lr": self.optimizer.param_groups[0]["lr"], **sums}
        if self.evaluate is not None and parallel.rank() == 0:
            self.objective.schedule(self._now())
            self.objective.training(False)
            row["metric"], error = self.evaluate()
            if error is not None:
                row["metric_error"] = error
        self.history.epochs.append(row)
        if "metric" in row and self.options.keep == "best":
            self._keep_best(epoch, row["metric"])
        if self.options.patience is not None and "metric" in row:
            metrics = [past["metric"] for past in self.history.epochs]
            self.history.stopped_early = epoch - metrics.index(max(metrics)) >= self.options.patience
        self.history.stopped_early = bool(parallel.share(self.history.stopped_early))
        if epoch:
            self.progress.say(f"  {self.job.what}: {_told(row, self.options.epochs)}")

    def _keep_best(self, epoch: int, metric: float) -> None:
        """Keep the best weights; of equals the longer trained ones.

        The start is kept only where it is better by more than chance may make it: by its standard error,
        and by anything where that is not known.
        """
        if self.history.best is not None:
            best = self.history.epochs[self.history.best]
            bar = best["metric"] - (best.get("metric_error", 0.0) if self.history.best == 0 else 0.0)
        if self.history.best is None or metric >= bar:
            self.history.best = epoch
            self.best = {name: t.detach().cpu().clone() for name, t in self.network.state_dict().items()}

    def _status(self) -> str:
        done = self.step % self.steps_an_epoch
        told = f"epoch {self.step // self.steps_an_epoch + 1} of {self.options.epochs}"
        if done:
            told += f", loss {self.sums['loss'] * self.steps_an_epoch / done:.4g}"
        if "metric" in self.history.epochs[-1]:
            told += f", validation {self.history.epochs[-1]['metric']:.4f}"
        return told

    def _save(self) -> None:
        if self.path is None:
            return
        tensors = {
            **with_prefix(NETWORK, self.network.state_dict()),
            **with_prefix(BEST, self.best),
            **with_prefix(OPTIMIZER, moments_of(self.optimizer)),
        }
        values = {
            "step": self.step,
            "sums": self.sums,
            "history": asdict(self.history),
            "scaler": self.scaler.state_dict(),
        }
        save(self.path, Checkpoint(tensors, values))
        self.saved = time.monotonic()

    def _resume(self) -> None:
        """Take up the first process's checkpoint, in every process."""
        found = parallel.share(load(self.path) if self.path is not None else None)
        if found is None:
            return
        self.network.load_state_dict(without_prefix(NETWORK, found.tensors))
        self.best = without_prefix(BEST, found.tensors)
        restore_moments(self.optimizer, without_prefix(OPTIMIZER, found.tensors))
        self.step, self.sums = found.values["step"], found.values["sums"]
        self.history = History(**found.values["history"])
        if self.scaler.is_enabled() and found.values["scaler"]:
            self.scaler.load_state_dict(found.values["scaler"])
        if self.step:
            where = (
                "was finished" if self.step == self.steps else f"resumed at step {self.step} of {self.steps}"
            )
            self.progress.say(f"  {self.job.what}: {where}")


def _channels_last(x: Tensor) -> Tensor:
    """Images in the memory format that convolutions are fastest in; their outputs keep it."""
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x


@contextmanager
def _deterministic() -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def _told(row: dict[str, float], epochs: int) -> str:
    parts = [f"{name} {value:.4g}" for name, value in row.items() if name not in SAID_APART]
    metric = [f"validation {row['metric']:.4f}"] if "metric" in row else []
    return f"epoch {int(row['epoch'])} of {epochs}: " + ", ".join([*parts, *metric])
