"""Accuracy of both sides on the same samples: a paired test, never two percentages."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...calibration.data import Part
from ...calibration.metric import Measurement, Metric, mcnemar, metric_named
from ...calibration.sources import load_data
from ...model import Forward
from ...progress import Progress, Silent
from ...targets.base import Feeds
from ...targets.device import Device, Frozen
from ..recipe_file import read_recipe


@dataclass(frozen=True)
class Judged:
    """The metric and the samples it is measured on."""

    metric: Metric
    part: Part


@dataclass(frozen=True)
class Paired:
    """The metric of both sides and the paired test. p: one-sided, that the candidate is no worse.

    drop: baseline minus candidate, with its 95 % interval (Student's t on the samples' differences).
    """

    baseline: Measurement
    candidate: Measurement
    drop: float
    ci95: tuple[float, float]
    p: float


def judged_by(recipe_path: Path, progress: Progress = Silent()) -> Judged:
    """The data and the metric of a recipe; its model and passes do not matter here."""
    recipe, folder = read_recipe(recipe_path), recipe_path.resolve().parent
    told = recipe.data
    split = {str(k): v for k, v in told.split.items()} if told.split else None
    data = load_data(
        told.source, told.args, split, told.preprocess, told.calibration_samples, recipe.seed,
        folder=folder, integer_labels=recipe.metric.startswith("top"), progress=progress,
    )  # fmt: skip
    return Judged(metric_named(recipe.metric, folder), data.judge)


def compare(
    judged: Judged,
    device: Device,
    baseline: Frozen,
    candidate: Frozen,
    feeds: Feeds,
    progress: Progress = Silent(),
) -> Paired:
    """Measure both on the device, in batches as large as `feeds`, which tell the inputs' names in order."""
    batch = len(next(iter(feeds.values())))
    before, after = (
        judged.metric.measure(_forward(device, side, feeds), judged.part, batch, progress)
        for side in (baseline, candidate)
    )
    return paired(before, after)


def paired(baseline: Measurement, candidate: Measurement) -> Paired:
    """McNemar's exact test where scores are right or wrong, else Student's t on the samples' differences."""
    from scipy.stats import t, ttest_rel

    a, b = baseline.scores, candidate.scores
    n, difference = len(a), a - b
    binary = np.isin(a, (0, 1)).all() and np.isin(b, (0, 1)).all()
    if binary or not difference.any():
        p = mcnemar(a, b, "greater") if binary else 1.0
    else:
        p = float(ttest_rel(a, b, alternative="greater").pvalue)
    drop = float(difference.mean())
    half = float(t.ppf(0.975, n - 1)) * float(difference.std(ddof=1)) / n**0.5
    return Paired(baseline, candidate, drop, (drop - half, drop + half), p)


def _forward(device: Device, frozen: Frozen, feeds: Feeds) -> Forward:
    from ...calibration.metric import padded

    names = list(feeds)

    def run(*inputs: Tensor) -> tuple[Tensor, ...]:
        fed = {name: x.numpy() for name, x in zip(names, inputs, strict=True)}
        return tuple(torch.from_numpy(np.asarray(y)) for y in device.outputs(frozen, fed))

    return padded(run, len(next(iter(feeds.values()))))
