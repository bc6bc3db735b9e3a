"""Equalization: shift and scale the channels of an activation so that one grid fits all, at no cost in accuracy.

Cross-layer equalization (Nagel et al. 2019, arXiv 1906.04721, section 4.1) between two layers, and smoothing
(SmoothQuant, Xiao et al. 2022, arXiv 2211.10438, equation 4) between a LayerNorm and its readers, are one
rewrite: divide channel j of the producer by s_j and multiply the consumers' input channel j by it, with
s_j = max|x_j|^a / max|w_j|^(1-a). Shifting (Outlier Suppression+, Wei et al. 2023, arXiv 2304.09145, section 4.1)
subtracts the middle of each channel first and gives it back in the consumers' bias: a symmetric grid then fits
GELU's lopsided outputs as well as an asymmetric one. Where no weight can take the change up (after GELU), an
operator of its own does, which runtimes fuse into the one before it.

The networks' outputs stay the same to float error. The strength a, and whether to shift, are found for each
tensor: of a few, the one whose rounding moves the network's outputs least.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from ...calibration.scheme import QuantScheme
from ...progress import Progress
from .channel_pairs import Evening, Pair, along, apply_evening, find_pairs, input_maxima, times_input_channels
from .grids import grid_of
from .observe import Batch, watch
from .operators import get_tensor, operand, optional_operand
from .output_effect import output_sqnr_db
from .quantizers import ActivationQuantizer, WeightQuantizer, weight_scale

STRENGTHS = (0.0, 0.3, 0.5, 0.7, 0.85)  # 0.5 is both papers' default
FREE_GAIN_DB = 0.5  # less is within what another choice of samples would change
OPERATOR_GAIN_DB = 3.0  # half a bit: worth the one or two hundredths of the time that an operator takes
SMALLEST = 1e-8  # a channel that never exceeds it is dead


def equalize(
    module: fx.GraphModule,
    layers: Iterable[str],
    batches: Callable[[], Iterable[Batch]],
    scheme: QuantScheme,
    generator: torch.Generator,
    progress: Progress,
) -> tuple[list[str], list[str]]:
    """Even out `module` in place, where INT8 layers among the nodes `layers` gain by it.

    Returns the names of the nodes that were evened out, and of those among them that got an operator of their own
    (for `insert_evening`).
    """
    quantized = set(layers)
    pairs = [p for p in find_pairs(module) if any(c.name in quantized for c in p.consumers)]
    if not pairs:
        return [], []
    extremes = _extremes(module, pairs, batches, progress)
    trials: dict[tuple[int, int], _Trial] = {}
    for index, pair in enumerate(pairs):
        low, high = extremes[pair.shown.name]
        for number, evening in enumerate(_candidates(module, pair, low, high)):
            trials[index, number] = _Trial(module, pair, evening, low, high, scheme)
    sqnr = output_sqnr_db(module, batches(), trials, generator, progress)
    chosen = _choose(pairs, trials, sqnr)
    for pair, evening in chosen:
        apply_evening(module, pair, evening)
    module.recompile()
    return [p.shown.name for p, _ in chosen], [p.shown.name for p, _ in chosen if p.producer is None]


def _extremes(
    module: fx.GraphModule, pairs: list[Pair], batches: Callable[[], Iterable[Batch]], progress: Progress
) -> dict[str, tuple[Tensor, Tensor]]:
    """The least and the largest value of each channel of each pair's tensor, shape (channels,) each."""
    axis = {p.shown.name: p.channel_axis for p in pairs}
    found: dict[str, tuple[Tensor, Tensor]] = {}

    def see(node: fx.Node, value: Any) -> Any:
        if node.name in axis:
            low, high = value.movedim(axis[node.name], 0).flatten(1).aminmax(dim=1)
            before = found.get(node.name, (low, high))
            found[node.name] = (torch.minimum(before[0], low), torch.maximum(before[1], high))
        return value

    for batch in progress.track(batches(), "equalizing: channel extremes"):
        watch(module, batch, see)
    return found


def _choose(
    pairs: list[Pair], trials: Mapping[tuple[int, int], _Trial], sqnr: Mapping[tuple[int, int], float]
) -> list[tuple[Pair, Evening]]:
    """The best evening of each pair, where it gains enough over none (number 0)."""
    chosen = []
    for index, pair in enumerate(pairs):
        best = max((key for key in trials if key[0] == index), key=lambda key: sqnr[key])
        least_gain = OPERATOR_GAIN_DB if pair.producer is None else FREE_GAIN_DB
        if sqnr[best] >= sqnr[index, 0] + least_gain:
            chosen.append((pair, trials[best].evening))
    return chosen


def _candidates(module: fx.GraphModule, pair: Pair, low: Tensor, high: Tensor) -> list[Evening]:
    """No change first, then each strength, without and with shifting."""
    weight = torch.stack([input_maxima(module, consumer) for consumer in pair.consumers]).amax(0)
    still, middle = torch.zeros_like(low), (low + high) / 2
    candidates = []
    for shift in (still, middle) if pair.may_shift else (still,):
        largest = torch.maximum(high - shift, shift - low)
        candidates += [Evening(shift, _factors(largest, weight, strength)) for strength in STRENGTHS]
    return candidates


def _factors(largest: Tensor, weight: Tensor, strength: float) -> Tensor:
    """s for each channel, shape (channels,), from the maxima of both sides; 1 where a channel is dead on either."""
    if strength == 0.0:
        return torch.ones_like(largest)
    alive = (largest > SMALLEST) & (weight > SMALLEST)
    factors = (largest.pow(strength) / weight.pow(1 - strength)).clamp(1e-4, 1e4)
    # Only ratios matter: a common factor would move the range without evening it.
    typical = factors[alive].log().mean().exp() if alive.any() else torch.tensor(1.0)
    return torch.where(alive, factors / typical, torch.ones_like(factors))


class _Trial:
    """A pair rounded to 8 bits after an evening, as a `Change` of its consumers' outputs."""

    def __init__(
        self,
        module: fx.GraphModule,
        pair: Pair,
        evening: Evening,
        low: Tensor,
        high: Tensor,
        scheme: QuantScheme,
    ) -> None:
        self.pair, self.evening = pair, evening
        least, most = (
            float(end((bound - evening.shift) / evening.factors))
            for end, bound in ((torch.min, low), (torch.max, high))
        )
        self.round = ActivationQuantizer(grid_of(min(least, -SMALLEST), max(most, SMALLEST), scheme))
        self.rounded: dict[str, _RoundedLayer] = {}
        for consumer in pair.consumers:
            weight = get_tensor(module, str(operand(consumer, 1).target))
            bias_node = optional_operand(consumer, 2)
            bias = None if bias_node is None else get_tensor(module, str(bias_node.target))
            if bool(evening.shift.any()):
                bias = weight @ evening.shift + (0 if bias is None else bias)
            evened = times_input_channels(consumer, weight, evening.factors)
            quantizer = WeightQuantizer(weight_scale(evened, 0), 0)
            scale = quantizer.channelwise_scale(evened).detach()
            self.rounded[consumer.name] = _RoundedLayer(consumer, quantizer.integers(evened), scale, bias)

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.pair.shown.name, *self.rounded)

    @property
    def moves(self) -> tuple[str, ...]:
        return tuple(self.rounded)

    def difference(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Each consumer's output from rounded input and weight, less what it is in float."""
        x = values[self.pair.shown.name]
        axis = self.pair.channel_axis
        shift, factors = (along(t, axis, x.dim()) for t in (self.evening.shift, self.evening.factors))
        rounded = self.round((x - shift) / factors)
        return {name: layer(rounded) - values[name] for name, layer in self.rounded.items()}


@dataclass(frozen=True)
class _RoundedLayer:
    """A layer with int8 weights: there are ten of each in memory, one for each candidate."""

    node: fx.Node
    integers: Tensor
    scale: Tensor
    bias: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        """The layer's output for an evened input."""
        assert callable(self.node.target)
        weight = self.integers * self.scale
        result = self.node.target(x, weight, self.bias, *self.node.args[3:], **self.node.kwargs)
        assert isinstance(result, Tensor)
        return result
