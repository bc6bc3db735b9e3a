"""Accuracy of both sides on the same samples: a paired test, never two percentages."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...calibration.data import Part
from ...calibration.measurement import Measurement, MetricRecord
from ...calibration.metric import Metric, metric_named
from ...calibration.statistics import mcnemar, mean_of, paired_drop_bound
from ...calibration.typed import part_in_types
from ...errors import CompressError
from ...model import Forward, padded
from ...progress import Progress, Silent
from ...targets.base import Feeds
from ...targets.measuring.device import Device, Frozen
from ..recipe.file import read_recipe


@dataclass(frozen=True)
class Judged:
    """The metric and the samples it is measured on."""

    metric: Metric
    part: Part

    def fitted(self, feeds: Feeds) -> Judged:
        """The same with samples in the types of the models' inputs, which `feeds` has by name and in order.

        CompressError where a sample has another number of inputs, or values that the types do not hold.
        """
        names = list(feeds)
        given = len(self.part.samples[0][0]) if len(self.part) else len(names)
        if given != len(names):
            raise CompressError(
                f"the recipe's data gives {given} inputs a sample, and the models take {len(names)}: "
                f"{', '.join(names)}; name a recipe for these models"
            )
        types = [torch.from_numpy(array).dtype for array in feeds.values()]
        return Judged(self.metric, part_in_types(self.part, types, names))


@dataclass(frozen=True)
class Paired:
    """The metric of both sides and the paired test. p: one-sided, that the candidate is no worse.

    drop: baseline minus candidate; at_most: what it surely (95 %) does not exceed.
    """

    baseline: MetricRecord
    candidate: MetricRecord
    drop: float
    at_most: float
    p: float


def judged_by(recipe_path: Path, progress: Progress = Silent()) -> Judged:
    """The data and the metric of a recipe; its model and passes do not matter here."""
    from ..prepare import Prepared  # which brings the exporter: a gate without a recipe does without

    prepared = Prepared(read_recipe(recipe_path), recipe_path.resolve().parent, progress=progress)
    return Judged(metric_named(prepared.recipe.metric, prepared.base), prepared.data().judge)


def compare(
    judged: Judged,
    device: Device,
    baseline: Frozen,
    candidate: Frozen,
    feeds: Feeds,
    progress: Progress = Silent(),
) -> Paired:
    """Measure both on the device, in batches as large as `feeds`, which `judged` was fitted to."""
    batch = len(np.atleast_1d(next(iter(feeds.values()))))
    before, after = (
        judged.metric.measure(_forward(device, side, feeds), judged.part, batch, progress)
        for side in (baseline, candidate)
    )
    return paired(before, after)


def paired(baseline: Measurement, candidate: Measurement) -> Paired:
    """McNemar's exact test and Agresti and Min's bound where scores are right or wrong, else Student's t on the
    samples' differences. CompressError for fewer than two samples, and for scores that are no numbers.
    """
    a, b = baseline.scores, candidate.scores
    if len(a) < 2 or not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise CompressError(
            f"metric {baseline.record.name}: {len(a)} samples, and a test needs at least 2, all with numbers"
        )
    records, drop = (baseline.record, candidate.record), float((a - b).mean())
    if np.isin(a, (0, 1)).all() and np.isin(b, (0, 1)).all():
        return Paired(*records, drop, paired_drop_bound(a, b), mcnemar(a, b, "greater"))
    lost = mean_of(a - b)
    return Paired(*records, drop, lost.upper(), lost.p_above())


def _forward(device: Device, frozen: Frozen, feeds: Feeds) -> Forward:
    names, first = list(feeds), next(iter(feeds.values()))
    if first.ndim == 0:
        raise CompressError(f"input {names[0]!r} is a single number: accuracy needs a batch of samples")

    def run(*inputs: Tensor) -> tuple[Tensor, ...]:
        fed = {name: x.numpy() for name, x in zip(names, inputs, strict=True)}
        return tuple(torch.from_numpy(np.asarray(y)) for y in device.outputs(frozen, fed))

    return padded(run, len(first))
