"""The judge of optional steps: how far a quantized network's outputs are from the float ones, on samples kept apart.

A step that is right by its own measure (a smaller squared error of a tensor, a mean that fits again) can still move the
outputs further from the float network's. So each is judged by the outputs of the whole quantized network, on
samples that nothing was fitted to.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx

from ...calibration.data import DataParts, Part, Sample, Subset
from ...calibration.sqnr import UNMOVED_DB, decibels
from ...calibration.statistics import mean_of
from ..graph.observe import Batch, Watcher, judged_nodes, judged_values
from .quantizers import ActivationQuantizer, quantizers_of

TRIALS = JUDGES = 32  # enough to rank two variants by SQNR, few enough to cost seconds
MOST_JUDGES = 256  # one sample of a hundred that is clipped can make half of the noise
JUDGING_MACS = 2 * 10**10  # of all judges together: a second or two
CERTAIN = 2.0  # standard errors: a gain of one is chance every sixth time
LEAST_OF_TRAIN = 16  # fewer say less than the calibration part's own end


@dataclass(frozen=True)
class Noise:
    """What rounding adds to the outputs: the share of the outputs' energy, batch by batch of one set of samples."""

    shares: tuple[float, ...]

    @property
    def db(self) -> float:
        """The outputs' SQNR in dB; that of outputs which are not finite is lower than any."""
        total = sum(self.shares)
        return decibels(1.0, total) if math.isfinite(total) else -UNMOVED_DB

    def clearly_below(self, other: Noise) -> bool:
        """Whether this is less than `other` by more than two standard errors of the difference over the batches."""
        gains = [b - a for a, b in zip(self.shares, other.shares, strict=True)]
        total = sum(gains)
        if len(gains) < 2 or not math.isfinite(total):
            return total > 0
        gain = mean_of(gains)
        return gain.value > CERTAIN * gain.error


class Judge:
    """Samples that no step was fitted to, and what the float network makes of them."""

    def __init__(self, graph: fx.GraphModule, batches: Iterable[Batch]) -> None:
        """Runs `graph`, the float network's capture, over `batches` once; where it is not finite, nothing is judged."""
        self.names = judged_nodes(graph)
        outputs = [(batch, judged_values(graph, batch, self.names)) for batch in batches]
        finite = [(b, values) for b, values in outputs if all(bool(y.isfinite().all()) for y in values)]
        self.batches, self.wanted = [b for b, _ in finite], [values for _, values in finite]
        self.energies = [sum(_energy(y) for y in column) for column in zip(*self.wanted, strict=True)]

    def noise(self, quantized: fx.GraphModule) -> Noise:
        """What `quantized`, a graph with the same nodes and quantizers between them, adds to the outputs.

        Each output counts by its own size; of several, the mean.
        """
        run = _WeightsRoundedOnce(quantized, self.names)
        shares = []
        for batch, wanted in zip(self.batches, self.wanted, strict=True):
            errors = [
                _energy(y.double() - got.double()) / max(energy, 1e-300)
                for y, got, energy in zip(wanted, run.values(batch), self.energies, strict=True)
            ]
            share = sum(errors) / len(errors)
            shares.append(share if math.isfinite(share) else math.inf)
        return Noise(tuple(shares))


class _WeightsRoundedOnce:
    """Runs a quantized graph over several batches without rounding its weights anew for each."""

    def __init__(self, quantized: fx.GraphModule, names: tuple[str, ...]) -> None:
        self.module, self.names = quantized, names
        quantizers = quantizers_of(quantized)
        self.of_weights = {n for n, q in quantizers.items() if not isinstance(q, ActivationQuantizer)}
        self.rounded: dict[str, Any] = {}

    def values(self, batch: Batch) -> list[Tensor]:
        """The judged tensors for one batch."""
        return judged_values(self.module, batch, self.names, self._interpreter)

    def _interpreter(self, module: fx.GraphModule, see: Any) -> Watcher:
        outer = self

        class Remembering(Watcher):
            def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
                if target not in outer.of_weights:
                    return super().call_module(target, args, kwargs)
                if target not in outer.rounded:
                    outer.rounded[target] = super().call_module(target, args, kwargs)
                return outer.rounded[target]

        return Remembering(module, see)


def _energy(y: Tensor) -> float:
    return float(y.double().square().sum())


@dataclass(frozen=True)
class Roles:
    """What samples are for: to fit steps to, to compare changes of single tensors on, and to judge steps by."""

    fitted: Part
    trials: Part
    judges: Part


def roles(data: DataParts, batch: int, macs: int | None) -> Roles:
    """The samples for each purpose; no judges when there are too few.

    Compared and judged is on samples spread over the train part that the calibration part does not hold, to which this
    pass fits nothing; where there are none, on the calibration part, whose end, at most half of it, are the judges.
    batch: what the network takes at once; judges are whole batches. macs: of one sample; the cheaper it is, the more
    judges.
    """
    calibration = data.calibration
    judges = max(JUDGES, batch, min(MOST_JUDGES, JUDGING_MACS // macs if macs else 0))
    trials = max(TRIALS, batch)
    train = _without(_spread(data.train, 2 * (judges + trials)), calibration)
    if len(train) >= max(LEAST_OF_TRAIN, 4 * batch):
        every = min(len(train), judges + trials)
        compared = every * trials // (judges + trials)
        indices = [i * len(train) // every for i in range(every)]
        sides = [i * compared % every < compared for i in range(every)]  # so many of all, at even distances
        one, other = ([i for i, s in zip(indices, sides, strict=True) if s is side] for side in (True, False))
        return Roles(
            calibration,
            Part(train.name, Subset(train.samples, one)),
            Part(train.name, Subset(train.samples, other)),
        )
    count = min(judges, len(calibration) // 2) // batch * batch
    middle = len(calibration) - count
    fitted = calibration.between(0, middle)
    return Roles(fitted, fitted.head(trials), calibration.between(middle, len(calibration)))


def _spread(part: Part, count: int) -> Part:
    """At most `count` samples at even distances."""
    count = min(count, len(part))
    return Part(part.name, Subset(part.samples, [i * len(part) // count for i in range(count)]))


def _without(part: Part, other: Part) -> Part:
    """The samples of `part` that `other` does not hold, whether the parts overlap or a sample stands in both."""
    known = {_digest(other.samples[i]) for i in range(len(other))}
    kept = [i for i in range(len(part)) if _digest(part.samples[i]) not in known]
    return Part(part.name, Subset(part.samples, kept))


def _digest(sample: Sample) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for x in sample[0]:
        digest.update(x.contiguous().numpy().tobytes())
    return digest.digest()
