"""Fitting a table of latencies to smaller versions of a network that were measured.

Layers are timed where they stand, as fusion and caches are not those of a layer alone. Each probe's layers, by the
runtime's own clock, are brought to the sum that the whole of it took in turns with the unpruned network. The parts of a
layer are then a non-negative least-squares fit (Lawson and Hanson 1974, Solving Least Squares Problems, chapter 23) of
its relative errors, and one more such fit, of networks by the sums of their layers, gives what no layer takes.
Runtimes compute channels in blocks: of some sizes of blocks those are taken that predict best what was left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from .latency_table import LayerLatency, Probe, Steps, share
from .statistics import Values

LEAST_PROBES = 4
"""From which on one is left out and predicted by the others."""
STEPS: tuple[Steps, ...] = ((1, 1), (8, 8), (16, 16), (32, 16), (64, 16), (32, 32))
"""Blocks of channels read and made: oneDNN's are of 16 and, of INT8 that is read, of 4, 32 or 64."""
LEAST_TO_CHOOSE = 8
"""Probes from which on blocks are chosen: what fits few of them best does so by chance."""
TRUST = 0.3
"""In the layers' sums as they are: weighs as a probe of which a tenth too much is an error of 3 %, against the rest
being all that few probes have in common."""
FLOOR = 0.5
"""Of a layer's mean time: below it a runtime's clock tells too little for the error to count in full."""


@dataclass(frozen=True)
class LayerSize:
    """A layer of the whole network: its class, channels read and made (0: none can go), and MACs of a sample."""

    name: str
    type: str
    inputs: int
    outputs: int
    macs: int


@dataclass(frozen=True)
class Fitted:
    """What was fitted to probes: each layer's parts in ms, (layers, 4) as `LayerLatency` has them, and the rest."""

    parts: Values
    rest_ms: float


@dataclass(frozen=True)
class _Samples:
    """Probes as numbers. features: what parts are multiplied by, (probes, layers, 4), zeros for a layer that is gone;
    ms: (probes,); timed: of each layer, (probes, layers); macs: (layers,).
    """

    features: Values
    ms: Values
    timed: Values
    macs: Values

    def without(self, index: int) -> _Samples:
        """All probes but one."""
        features, ms, timed = (
            np.delete(each, index, axis=0) for each in (self.features, self.ms, self.timed)
        )
        return _Samples(features, ms, timed, self.macs)


def fit(sizes: Sequence[LayerSize], probes: Sequence[Probe], steps: Steps = (1, 1)) -> Fitted:
    """The parts of each layer's time, by at least one probe.

    Where the runtime does not time layers they share one cost of a multiply-accumulate, and one of a layer.
    """
    return _fit(_samples(sizes, probes, steps))


def held_out(sizes: Sequence[LayerSize], probes: Sequence[Probe]) -> tuple[tuple[Probe, ...], Steps]:
    """The probes, each with what a fit to all others predicts of it, and the blocks with which it does so best.

    Of too few probes none is predicted.
    """
    if len(probes) < LEAST_PROBES:
        return _with_predictions(probes, [None] * len(probes)), STEPS[0]
    choices = STEPS if len(probes) >= LEAST_TO_CHOOSE else STEPS[:1]
    found = {steps: _with_predictions(probes, _left_out(_samples(sizes, probes, steps))) for steps in choices}
    best = min(found, key=lambda steps: mean_error(found[steps]) or 0.0)
    return found[best], best


def mean_error(probes: Sequence[Probe]) -> float | None:
    """Mean of |predicted / measured - 1| over the probes; None where none was predicted."""
    errors = [abs(one.predicted_ms / one.ms - 1) for one in probes if one.predicted_ms is not None]
    return sum(errors) / len(errors) if errors else None


def latencies(sizes: Sequence[LayerSize], fitted: Fitted, whole: Probe | None) -> tuple[LayerLatency, ...]:
    """The layers of a table. whole: the probe that is the whole network, where that was measured."""
    measured = {} if whole is None else whole.layer_ms
    return tuple(
        LayerLatency(
            name=size.name,
            type=size.type,
            inputs=size.inputs,
            outputs=size.outputs,
            macs=size.macs,
            fixed=fixed,
            both=both,
            read=read,
            made=made,
            measured_ms=measured.get(size.name),
        )
        for size, (fixed, both, read, made) in zip(sizes, fitted.parts.tolist(), strict=True)
    )


def _with_predictions(probes: Sequence[Probe], predicted: Sequence[float | None]) -> tuple[Probe, ...]:
    pairs = zip(probes, predicted, strict=True)
    return tuple(probe.model_copy(update={"predicted_ms": ms}) for probe, ms in pairs)


def _samples(sizes: Sequence[LayerSize], probes: Sequence[Probe], steps: Steps) -> _Samples:
    widths = torch.tensor([[one.widths.get(size.name, (0, 0)) for size in sizes] for one in probes]).double()
    there = np.array([[size.name in probe.widths for size in sizes] for probe in probes])
    whole = torch.tensor([(size.inputs, size.outputs) for size in sizes]).double()
    x, y = (share(widths[..., side], whole[..., side], steps[side]).numpy() for side in (0, 1))
    return _Samples(
        features=np.stack([np.ones_like(x), x * y, x, y], axis=-1) * there[..., None],
        ms=np.array([probe.ms for probe in probes]),
        timed=np.array([[probe.layer_ms.get(size.name, 0.0) for size in sizes] for probe in probes]),
        macs=np.array([size.macs for size in sizes], dtype=np.float64),
    )


def _left_out(samples: _Samples) -> list[float]:
    """Milliseconds of each probe by a fit to all others."""
    fits = [_fit(samples.without(index)) for index in range(len(samples.ms))]
    return [
        one.rest_ms + float((features * one.parts).sum())
        for one, features in zip(fits, samples.features, strict=True)
    ]


def _fit(samples: _Samples) -> Fitted:
    features, ms = samples.features, samples.ms
    if not samples.timed.any(axis=1).all():
        return _shared(samples)
    timed = samples.timed * (ms / samples.timed.sum(axis=1))[:, None]
    parts = np.stack([_one_layer(features[:, index], timed[:, index]) for index in range(timed.shape[1])])
    sums = (features * parts).sum(axis=(1, 2))
    scale, rest = _least_squares(
        np.append(np.stack([sums, np.ones_like(sums)], axis=1), [[TRUST, 0.0]], axis=0),
        np.append(ms, TRUST),
        np.append(ms, 1.0),
    )
    return Fitted(scale * parts, float(rest))


def _one_layer(features: Values, ms: Values) -> Values:
    """The parts, (4,), of a layer's times in probes, (probes,). What no probe varies is part of the fixed one."""
    there = features[:, 0] > 0
    features, ms = features[there], ms[there]
    varied = np.array([True, *(np.ptp(features[:, 1:], axis=0) > 0)]) if len(ms) else np.zeros(4, bool)
    varied[1] &= varied[2] and varied[3]  # where one side alone varies, both vary as that does
    parts = np.zeros(4)
    if ms.any():
        parts[varied] = _least_squares(features[:, varied], ms, np.maximum(ms, FLOOR * ms.mean()))
    return parts


def _shared(samples: _Samples) -> Fitted:
    """What times of whole networks alone tell: a cost of a multiply-accumulate, of a layer, and of neither."""
    features, ms, macs = samples.features, samples.ms, samples.macs
    weights = macs / macs.sum() if macs.any() else macs
    columns = np.stack([features[..., 1] @ weights, features[..., 0].mean(axis=1), np.ones_like(ms)], axis=1)
    computing, layers, rest = _least_squares(columns, ms, ms)
    parts = np.zeros((len(macs), 4))
    parts[:, 0], parts[:, 1] = layers / len(macs), computing * weights
    return Fitted(parts, float(rest))


def _least_squares(columns: Values, values: Values, scales: Values) -> Values:
    """The coefficients >= 0 of least squared error, each error over its scale."""
    from scipy.optimize import nnls

    found: Values = nnls(columns / scales[:, None], values / scales)[0]
    return found
