"""Accuracy of both sides on the same samples: a paired test, never two percentages."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...calibration.data import Part
from ...calibration.metric import Measurement, Metric, mcnemar, metric_named
from ...errors import CompressError
from ...model import Forward, padded
from ...progress import Progress, Silent
from ...targets.base import Feeds
from ...targets.measuring.device import Device, Frozen
from ..recipe.file import read_recipe

CERTAIN = 1.6449
"""Standard errors of a one-sided bound that holds in 95 of 100 cases."""
Scores = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Judged:
    """The metric and the samples it is measured on."""

    metric: Metric
    part: Part


@dataclass(frozen=True)
class Paired:
    """The metric of both sides and the paired test. p: one-sided, that the candidate is no worse.

    drop: baseline minus candidate; at_most: what it surely (95 %) does not exceed.
    """

    baseline: Measurement
    candidate: Measurement
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
    """Measure both on the device, in batches as large as `feeds`, which tell the inputs' names in order."""
    batch = len(np.atleast_1d(next(iter(feeds.values()))))
    before, after = (
        judged.metric.measure(_forward(device, side, feeds), judged.part, batch, progress)
        for side in (baseline, candidate)
    )
    return paired(before, after)


def paired(baseline: Measurement, candidate: Measurement) -> Paired:
    """McNemar's exact test where scores are right or wrong, else Student's t on the samples' differences.

    `at_most` is the one-sided bound by Agresti and Min (2005, Stat. Med. 24), half a sample added to each of the four
    cells, so that few samples never look certain; else Student's t. CompressError for fewer than two samples, and for
    scores that are no numbers.
    """
    a, b = baseline.scores, candidate.scores
    if len(a) < 2 or not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise CompressError(
            f"metric {baseline.name}: {len(a)} samples, and a test needs at least 2, all with numbers"
        )
    drop = float((a - b).mean())
    if np.isin(a, (0, 1)).all() and np.isin(b, (0, 1)).all():
        return Paired(baseline, candidate, drop, _most_by_counts(a, b), mcnemar(a, b, "greater"))
    return Paired(baseline, candidate, drop, *_by_t(a - b))


def _most_by_counts(a: Scores, b: Scores) -> float:
    n, only_a, only_b = len(a) + 2, float((a > b).sum()) + 0.5, float((b > a).sum()) + 0.5
    drop = (only_a - only_b) / n
    return drop + CERTAIN * sqrt(only_a + only_b - n * drop**2) / n


def _by_t(difference: Scores) -> tuple[float, float]:
    """The upper bound of the mean, and the p-value that it is not above 0."""
    from scipy.stats import t

    n, mean = len(difference), float(difference.mean())
    error = float(difference.std(ddof=1)) / n**0.5
    if error == 0:
        return mean, 0.0 if mean > 0 else 1.0
    return mean + float(t.ppf(0.95, n - 1)) * error, float(t.sf(mean / error, n - 1))


def _forward(device: Device, frozen: Frozen, feeds: Feeds) -> Forward:
    from ...calibration.typed import in_type

    names, first = list(feeds), next(iter(feeds.values()))
    if first.ndim == 0:
        raise CompressError(f"input {names[0]!r} is a single number: accuracy needs a batch of samples")

    def run(*inputs: Tensor) -> tuple[Tensor, ...]:
        if len(inputs) != len(names):
            raise CompressError(
                f"the recipe's data gives {len(inputs)} inputs a sample, and the models take {len(names)}: "
                f"{', '.join(names)}; name a recipe for these models"
            )
        fed = {
            name: in_type(x, torch.from_numpy(feeds[name]).dtype, f"data: input {name!r}").numpy()
            for name, x in zip(names, inputs, strict=True)
        }
        return tuple(torch.from_numpy(np.asarray(y)) for y in device.outputs(frozen, fed))

    return padded(run, len(first))
