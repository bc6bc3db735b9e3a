"""Metrics: always with their sample count, interval and per-sample scores (for paired tests)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ..errors import CompressError
from ..progress import Progress, Silent
from ..record import LARGEST
from .measurement import Measurement, MetricRecord
from .named import call, did_you_mean, import_callable, is_callable_name
from .statistics import mean_of, share_error, share_interval

if TYPE_CHECKING:
    from torch import Tensor

    from ..model import Forward
    from .data import Part

ROUNDING = 1e-9
"""0.8674 - 0.8624 is a little over 0.005 in floating point, and is half a point all the same."""

LARGEST_SCORE = LARGEST / 1e10
"""The bounds of two scores' mean lie up to 13 times as far out, and are to be numbers of a record still."""

Scores = np.ndarray[Any, Any]


class Metric(Protocol):
    """Something to measure a network by; higher is better."""

    @property
    def name(self) -> str:
        """The name that recipes and reports use."""

    def measure(
        self, forward: Forward, part: Part, batch_size: int = 32, progress: Progress = Silent()
    ) -> Measurement:
        """Run `part` through `forward` and score every sample."""


@dataclass(frozen=True)
class TopK:
    """The share of samples whose label is among the `k` largest logits of the first output.

    Of equal logits the lower class index ranks first, so that a score never depends on a sort.
    """

    k: int

    @property
    def name(self) -> str:
        """`top1`, `top5`."""
        return f"top{self.k}"

    def measure(
        self, forward: Forward, part: Part, batch_size: int = 32, progress: Progress = Silent()
    ) -> Measurement:
        """The accuracy as a fraction, with Wilson's 95 % interval and standard error."""
        batches = _run(self.name, forward, part, batch_size, progress)
        scores = np.concatenate([self._score(outputs[0], labels) for outputs, labels in batches])
        hits, n = int(scores.sum()), len(scores)
        record = MetricRecord(
            name=self.name,
            value=hits / n,
            n=n,
            ci95=share_interval(hits, n),
            part=part.name,
            standard_error=share_error(hits, n),
        )
        return Measurement(record, scores)

    def _score(self, logits: Tensor, labels: Tensor) -> Scores:
        """logits (batch, classes), labels (batch,) -> (batch,): 1.0 where the label is in the top k."""
        if logits.ndim != 2 or labels.ndim != 1:
            raise CompressError(
                f"metric {self.name}: needs logits (batch, classes) and labels (batch,); the network gives"
                f" {tuple(logits.shape)} and the data {tuple(labels.shape)}; name a metric function of your"
                f" own instead"
            )
        classes = logits.shape[1]
        if self.k >= classes:
            raise CompressError(f"metric {self.name}: the network has only {classes} classes")
        if int(labels.min()) < 0 or int(labels.max()) >= classes:
            wrong = labels[(labels < 0) | (labels >= classes)][0]
            raise CompressError(
                f"metric {self.name}: label {int(wrong)} is out of range: the network has classes 0 to"
                f" {classes - 1}"
            )
        if bool(logits.isnan().any()):
            raise CompressError(f"metric {self.name}: the network's output holds NaN")
        own = logits.gather(1, labels.long()[:, None])
        lower_class = logits.new_ones(classes).cumsum(0)[None] - 1 < labels[:, None]
        rank = (logits > own).sum(1) + ((logits == own) & lower_class).sum(1)
        return np.asarray((rank < self.k).cpu().numpy(), dtype=np.float64)


@dataclass(frozen=True)
class NamedMetric:
    """A function of the user: (outputs, each (batch, ...), labels) -> scores (batch,), higher is better."""

    name: str
    function: Callable[[tuple[Tensor, ...], Tensor], Tensor]

    def measure(
        self, forward: Forward, part: Part, batch_size: int = 32, progress: Progress = Silent()
    ) -> Measurement:
        """The mean score with Student's t 95 % interval of the mean; unknown where all scores are equal.

        Equal scores tell nothing of how others would scatter, and an interval without width would claim that none do.
        """
        batches = _run(self.name, forward, part, batch_size, progress)
        scores = np.concatenate([self._score(outputs, labels) for outputs, labels in batches])
        n = len(scores)
        if n < 2:
            raise CompressError(
                f"metric {self.name}: one sample has no interval; {part.name} needs at least 2"
            )
        mean = mean_of(scores)
        record = MetricRecord(
            name=self.name,
            value=mean.value,
            n=n,
            ci95=mean.ci95 if mean.error else (float("nan"), float("nan")),
            part=part.name,
            standard_error=mean.error or None,
        )
        return Measurement(record, scores)

    def _score(self, outputs: tuple[Tensor, ...], labels: Tensor) -> Scores:
        result = call(self.function, f"metric {self.name}", outputs, labels)
        scores = np.asarray(result.detach().cpu() if hasattr(result, "detach") else result, dtype=np.float64)
        if scores.shape != (len(labels),):
            raise CompressError(
                f"metric {self.name}: must return one score a sample, shape ({len(labels)},); got shape"
                f" {scores.shape}"
            )
        if not np.isfinite(scores).all():
            raise CompressError(f"metric {self.name}: returned NaN or infinite scores")
        if (largest := float(np.abs(scores).max(initial=0.0))) > LARGEST_SCORE:
            raise CompressError(
                f"metric {self.name}: returned a score of size {largest:.3g}, and no record keeps more than"
                f" {LARGEST_SCORE:g}"
            )
        return scores


def metric_named(name: str, folder: Path | None = None) -> Metric:
    """The metric that a recipe names: `top1`, `topK`, or `pkg.module:function` (importable from `folder`)."""
    match = re.fullmatch(r"top([1-9]\d{0,4})", name)
    if match is not None:
        return TopK(int(match[1]))
    if is_callable_name(name):
        return NamedMetric(name, import_callable(name, "metric", folder))
    hint = did_you_mean(name.lower(), ["top1", "top5", "topK"])
    raise CompressError(f"metric {name!r}: expected top1, topK (as top5) or pkg.module:function{hint}")


def _run(
    metric: str, forward: Forward, part: Part, batch_size: int, progress: Progress
) -> Iterator[tuple[tuple[Tensor, ...], Tensor]]:
    """Outputs and labels, batch by batch."""
    if not len(part):
        raise CompressError(f"metric {metric}: the {part.name} part is empty")
    total = -(-len(part) // batch_size)
    for inputs, labels in progress.track(part.batches(batch_size), f"{metric} on {part.name}", total):
        yield forward(*inputs), labels
