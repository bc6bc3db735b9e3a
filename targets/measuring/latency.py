"""Latency with its uncertainty: statistics over launches, and ratios of launches that took turns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import exp
from statistics import median
from typing import Annotated, TypeVar

import numpy as np
from pydantic import Field

from ...calibration.statistics import geometric_mean
from ...errors import CompressError
from ...record import Count, Interval, Milliseconds, Ratio, Record
from .feeds import FeedSequence
from .launch import LaunchResult, paired_log_ratio

NEEDED = {0.9: 64, 0.99: 662}
"""Samples that a percentile needs at 99 % confidence (MLPerf inference rules, query counts)."""
Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class LaunchSamples:
    """One launch of one engine. round: which one it belongs to; order: its place among all launches."""

    label: str
    round: int
    order: int
    result: LaunchResult


class Latency(Record, frozen=True):
    """Steady-state latency of one inference, in milliseconds.

    p50: median of the launches' medians, each over all its inputs; ci95: Student's t on the logarithms of those.
    p90, p99: over all samples, which where several inputs are fed is over the data as well as over time; null where
    there are too few, and then `note` says how many it takes.
    load_ms, first_inference_ms: medians over launches.
    cached: measured by an earlier run, at `measured_at`. samples_ms: raw samples of each launch, in order, to the
    nanosecond.
    inputs: how many different ones were fed in turn, sample i being of input i modulo that; inputs_sha256: of all
    of them in order, empty in records of before; inputs_origin: what they are, in words that follow "over".
    """

    p50: Milliseconds
    p90: Milliseconds | None
    p99: Milliseconds | None
    n: Count
    launches: Count
    ci95: Interval
    load_ms: Milliseconds
    first_inference_ms: Milliseconds
    warmup_iterations: Count
    measured_at: str
    cached: bool = False
    note: str = ""
    samples_ms: tuple[tuple[Milliseconds, ...], ...]
    inputs: Annotated[Count, Field(ge=1)] = 1
    inputs_sha256: str = ""
    inputs_origin: str = ""


class Speedup(Record, frozen=True):
    """Baseline time over compressed time (above 1: the compressed engine is faster), paired by round.

    baseline: label of the engine that the other one is compared with.
    """

    baseline: str
    ratio: Ratio
    ci95: Interval
    pairs: Count


def require_pairs(pairs: int) -> None:
    """Raise CompressError for fewer rounds than an interval needs."""
    if pairs < 2:
        raise CompressError(f"pairs is {pairs}: an interval needs at least 2 launches of each engine")


def of(launches: Sequence[LaunchSamples], label: str) -> list[LaunchSamples]:
    """The launches of one engine, by round."""
    return sorted((x for x in launches if x.label == label), key=lambda x: x.round)


def summarize(launches: Sequence[LaunchSamples], fed: FeedSequence | None = None) -> Latency:
    """The statistics of the launches of ONE engine (at least two). fed: what all of them were fed."""
    results = [x.result for x in launches]
    medians = [r.median_ns / 1e6 for r in results]
    _, ci95 = _typical(medians)
    pooled = np.concatenate([np.asarray(r.samples_ns, dtype=np.float64) for r in results]) / 1e6
    n = len(pooled)
    notes = [f"n = {n}, p{round(q * 100)} needs {needed}" for q, needed in NEEDED.items() if n < needed]
    restless = sum(not r.warmed_up for r in results)
    if restless:
        notes.append(
            f"{restless} of {len(results)} launches were not steady to 1 % when their warm-up time was over"
        )
    return Latency(
        p50=median(medians),
        p90=_percentile(pooled, 0.9),
        p99=_percentile(pooled, 0.99),
        n=n,
        launches=len(results),
        ci95=ci95,
        load_ms=median(r.load_ms for r in results),
        first_inference_ms=median(r.first_inference_ms for r in results),
        warmup_iterations=round(median(r.warmup_iterations for r in results)),
        measured_at=results[0].started_at,
        note="; ".join(notes),
        samples_ms=tuple(tuple(ns / 1e6 for ns in r.samples_ns) for r in results),
        inputs=1 if fed is None else len(fed),
        inputs_sha256="" if fed is None else fed.sha256,
        inputs_origin="" if fed is None else fed.origin,
    )


def speedup_in_turns(baseline: Sequence[LaunchSamples], compressed: Sequence[LaunchSamples]) -> Speedup:
    """exp of the mean log-ratio of rounds, each as the gate takes it (`paired_log_ratio`), with Student's t on rounds.

    Both sequences by round, from launches that took turns.
    """
    pairs = zip(baseline, compressed, strict=True)
    ratios = [exp(paired_log_ratio(after.result, before.result)) for before, after in pairs]
    return _mean_of(baseline[0].label, ratios)


def paired(label: str, baseline: Sequence[float], compressed: Sequence[float]) -> Speedup:
    """exp of the mean log-ratio of times that belong together one by one, with Student's t on the pairs.

    label: the baseline's.
    """
    return _mean_of(label, [one / other for one, other in zip(baseline, compressed, strict=True)])


def _mean_of(label: str, ratios: Sequence[float]) -> Speedup:
    ratio, ci95 = _typical(ratios)
    return Speedup(baseline=label, ratio=ratio, ci95=ci95, pairs=len(ratios))


def median_known(values: Iterable[Number | None]) -> Number | None:
    """The middle one of what launches could tell, the upper one of two; None where none could."""
    known = sorted(value for value in values if value is not None)
    return known[len(known) // 2] if known else None


def _typical(values: Sequence[float]) -> tuple[float, tuple[float, float]]:
    """The geometric mean of one number a launch, with its 95 % interval."""
    if len(values) < 2:
        raise CompressError(f"{len(values)} launch measured: an interval needs at least 2 of each engine")
    return geometric_mean(values)


def _percentile(samples: np.ndarray[tuple[int], np.dtype[np.float64]], q: float) -> float | None:
    """The smallest sample that a share `q` of the samples does not exceed; None when there are too few."""
    return float(np.quantile(samples, q, method="inverted_cdf")) if len(samples) >= NEEDED[q] else None
