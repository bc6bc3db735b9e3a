"""Who wins in pruning_curve.py: accuracies at equal latency, and latencies at no lower accuracy, with intervals.

A method's curve runs through its networks of one seed and the original, straight between neighbours. What is compared
with a point between two of its networks is, sample by sample, the mean of their scores with the weights of that line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from math import exp
from typing import Any

import numpy as np

Scores = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Point:
    """One network. latency: as a share of the original's; scores: 1 or 0 for each test sample, (n,); kl: of its float
    outputs from the original's, in nats."""

    method: str
    target: float
    seed: int
    latency: float
    logs: tuple[float, ...]
    group: str
    scores: Scores
    kl: float


def at_latency(curve: Sequence[Point], original: Point, latency: float) -> tuple[Scores, bool]:
    """Scores (n,) of a curve at a latency, and whether it reaches so low; else those of its fastest network."""
    points = sorted([*curve, original], key=lambda point: point.latency)
    if latency < points[0].latency:
        return points[0].scores, False
    for fast, slow in pairwise(points):
        if fast.latency <= latency <= slow.latency:
            span = slow.latency - fast.latency
            share = (latency - fast.latency) / span if span else 0.0
            return (1 - share) * fast.scores + share * slow.scores, True
    return points[-1].scores, True


def compared(points: Sequence[Point], original: Point, ours: str, other: str) -> list[dict[str, Any]]:
    """Accuracy of `ours` less that of `other` at the latency of each of our networks, in points, over all seeds.

    The interval is Student's over the test samples, each sample's difference being its mean over the seeds; `seeds`
    are the differences of single trainings, which show how much of it is chance of a training.
    """
    from edgepress.calibration.statistics import mean_of

    rows = []
    for target in sorted({p.target for p in points if p.method == ours}, reverse=True):
        differences, reached = [], True
        mine = [p for p in points if (p.method, p.target) == (ours, target)]
        for point in mine:
            curve = [p for p in points if (p.method, p.seed) == (other, point.seed)]
            if curve:
                scores, reaches = at_latency(curve, original, point.latency)
                differences.append(100 * (point.scores - scores))
                reached &= reaches
        if differences:
            found = mean_of(np.mean(differences, axis=0))
            low, high = found.ci95
            rows.append(
                {
                    "ours": ours,
                    "target": target,
                    "other": other,
                    "latency": float(np.mean([p.latency for p in mine])),
                    "points": found.value,
                    "ci95": [low, high],
                    "seeds": [float(d.mean()) for d in differences],
                    "reached": reached,
                    "wins": "ours" if low > 0 else "other" if high < 0 else "",
                }
            )
    return rows


def mcnemar_per_seed(points: Sequence[Point], ours: str, other: str) -> list[dict[str, Any]]:
    """Our network against the nearest in latency of another method, seed by seed: McNemar's exact test, and Holm's
    adjustment of all of them.
    """
    from edgepress.calibration.statistics import holm, mcnemar

    rows = []
    for point in (p for p in points if p.method == ours):
        curve = [p for p in points if (p.method, p.seed) == (other, point.seed)]
        if curve:
            near = min(curve, key=lambda p: abs(p.latency - point.latency))
            rows.append(
                {
                    "ours": ours,
                    "target": point.target,
                    "seed": point.seed,
                    "other": other,
                    "other_target": near.target,
                    "latency": [point.latency, near.latency],
                    "points": 100 * float(point.scores.mean() - near.scores.mean()),
                    "p": mcnemar(point.scores, near.scores),
                }
            )
    adjusted = holm([row["p"] for row in rows])
    return [{**row, "p_holm": p} for row, p in zip(rows, adjusted, strict=True)]


def faster(points: Sequence[Point], one: str, other: str) -> list[dict[str, Any]]:
    """Latency of `one`'s networks over that of `other`'s of all seeds, where `one` is no less accurate on the mean.

    For each target of `other` the fastest such. The interval is Student's over the rounds of launches of all seeds,
    round by round where both were in the same launches.
    """
    from edgepress.calibration.statistics import geometric_mean, mean_of

    rows = []
    targets = {m: sorted({p.target for p in points if p.method == m}) for m in (one, other)}
    for theirs in targets[other]:
        candidates = []
        for mine in targets[one]:
            pairs = _by_seed(points, (one, mine), (other, theirs))
            if not pairs:
                continue
            difference = mean_of(100 * np.mean([a.scores - b.scores for a, b in pairs], axis=0))
            logs = [log for a, b in pairs for log in _log_ratios(a, b)]
            if difference.value >= 0:
                ratio, ci95 = geometric_mean([exp(log) for log in logs])
                candidates.append(
                    {
                        "one": one,
                        "target": mine,
                        "other": other,
                        "other_target": theirs,
                        "ratio": ratio,
                        "ci95": list(ci95),
                        "points": difference.value,
                        "points_ci95": list(difference.ci95),
                        "seeds": len(pairs),
                        "faster": ci95[1] < 1,
                    }
                )
        rows += [min(candidates, key=lambda row: row["ratio"])] if candidates else []
    return rows


def as_alike(points: Sequence[Point], original: Point, one: str, other: str) -> list[dict[str, Any]]:
    """Latency of `one` over that of `other` at equal KL divergence from the original, for each target of `other`.

    Accuracies of single trainings differ by a point for chance alone; divergences tell networks apart much earlier. The
    latency of `one` is read off its curve of the same seed, straight between neighbours in KL, the original at 0;
    where the curve ends before that KL, its last network is taken, which says less than there is (`reached`). The
    interval is Student's over the logarithms of the seeds.
    """
    from edgepress.calibration.statistics import geometric_mean

    rows = []
    for target in sorted({p.target for p in points if p.method == other}, reverse=True):
        ratios, reached = [], True
        for theirs in (p for p in points if (p.method, p.target) == (other, target)):
            curve = sorted(
                [original, *(p for p in points if (p.method, p.seed) == (one, theirs.seed))],
                key=lambda point: point.kl,
            )
            if len(curve) > 1:
                latency = np.interp(theirs.kl, [p.kl for p in curve], [p.latency for p in curve])
                ratios.append(float(latency) / theirs.latency)
                reached &= theirs.kl <= curve[-1].kl
        if ratios:
            ratio, ci95 = geometric_mean(ratios)
            rows.append(
                {
                    "one": one,
                    "other": other,
                    "other_target": target,
                    "ratio": ratio,
                    "ci95": list(ci95),
                    "seeds": len(ratios),
                    "reached": reached,
                    "faster": ci95[1] < 1,
                }
            )
    return rows


def _by_seed(
    points: Sequence[Point], one: tuple[str, float], other: tuple[str, float]
) -> list[tuple[Point, Point]]:
    return [
        (a, b)
        for a, b in product(points, points)
        if (a.method, a.target) == one and (b.method, b.target) == other and a.seed == b.seed
    ]


def _log_ratios(a: Point, b: Point) -> list[float]:
    """Logarithms of a's latency over b's: by round in the same launches, else by the means of their rounds."""
    if a.group == b.group:
        return [x - y for x, y in zip(a.logs, b.logs, strict=True)]
    return [float(np.mean(a.logs) - np.mean(b.logs))]


def _mean_of_known(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if len(known) == len(values) else None


def means(
    rows: Sequence[Mapping[str, Any]], points: Sequence[Point], original: Point
) -> list[dict[str, Any]]:
    """Rows averaged over seeds, with the accuracy lost to the original's INT8 engine, in points, and its interval."""
    from edgepress.calibration.statistics import geometric_mean, mean_of

    averaged = []
    for method, target in dict.fromkeys((row["method"], row["target"]) for row in rows):
        own = [row for row in rows if (row["method"], row["target"]) == (method, target)]
        scores = [p.scores for p in points if (p.method, p.target) == (method, target)]
        lost = mean_of(100 * (original.scores - np.mean(scores, axis=0)))
        latencies = [p.latency for p in points if (p.method, p.target) == (method, target)]
        averaged.append(
            {
                "method": method,
                "target": target,
                "seeds": len(own),
                "latency": geometric_mean(latencies)[0],
                **{key: _mean_of_known([row[key] for row in own]) for key in ("params_share", "macs_share")},
                "float_test": float(np.mean([row["accuracy"]["float_test"] for row in own])),
                "int8_test": float(np.mean([row["accuracy"]["int8_test"] for row in own])),
                "kl": float(np.mean([row["float"]["kl"] for row in own])),
                "agreement": float(np.mean([row["float"]["agreement"] for row in own])),
                "lost": lost.value,
                "lost_ci95": list(lost.ci95),
                "lost_seeds": [100 * float(np.mean(original.scores - one)) for one in scores],
            }
        )
    return averaged
