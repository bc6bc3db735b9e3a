"""Equalization: shift and scale the channels of an activation so that one grid fits all of them.

Cross-layer equalization (Nagel et al. 2019, arXiv 1906.04721, section 4.1) between two layers, and smoothing
(SmoothQuant, Xiao et al. 2022, arXiv 2211.10438, equation 4) between a LayerNorm and its readers, are one
rewrite: divide channel j of the producer by s_j and multiply the consumers' input channel j by it, with
s_j = max|x_j|^a / max|w_j|^(1-a). Shifting (Outlier Suppression+, Wei et al. 2023, arXiv 2304.09145, section 4.1)
subtracts the middle of each channel first and gives it back in the consumers' bias: a symmetric grid then fits
GELU's lopsided outputs as well as an asymmetric one. After GELU, no weight can take the change up, and an operator
of its own does.

The float network's outputs stay the same. The strength a, and whether to shift, are found for each tensor: of a
few, the one whose rounding moves the outputs least.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from ...calibration.scheme import QuantScheme
from ...progress import Progress
from ..graph.observe import Batch, require_finite, watch
from ..graph.operators import along, channels_first, get_tensor, operand, optional_operand
from .grids import grid_of
from .output_effect import output_sqnr_db
from .quantizers import ActivationQuantizer, WeightQuantizer, weight_scale
from .rescale import (
    Rescalable,
    Rescaling,
    apply_rescaling,
    find_rescalable,
    input_maxima,
    times_input_channels,
)

STRENGTHS = (0.0, 0.3, 0.5, 0.7, 0.85)  # 0.5 is both papers' default
WORTHWHILE_DB = 0.5  # less is within the scatter of the estimate
WORTH_AN_OPERATOR_DB = 3.0  # half a bit: an operator takes one or two hundredths of the network's time
SMALLEST = 1e-8  # a channel that never exceeds it is dead
TRIED_AT_ONCE = 2**28  # weights that are held as int8 at the same time, over all candidates


@dataclass(frozen=True)
class Equalized:
    """What was rescaled, by node name; of it, what got an operator of its own (for `insert_rescaling`)."""

    tensors: tuple[str, ...] = ()
    with_operator: tuple[str, ...] = ()


def equalize(
    module: fx.GraphModule,
    int8_nodes: Iterable[str],
    all_batches: Callable[[], Iterable[Batch]],
    trials: Callable[[], Iterable[Batch]],
    scheme: QuantScheme,
    generator: torch.Generator,
    progress: Progress,
    what: str,
) -> Equalized:
    """Rescale `module` in place where the layers `int8_nodes`, which will run in INT8, gain by it.

    all_batches show the channels' extremes; on `trials`, batches of one sample or few, candidates are compared.
    what: the pass, for messages.
    """
    int8 = frozenset(int8_nodes)
    tensors = [t for t in find_rescalable(module) if any(c.name in int8 for c in t.consumers)]
    if not tensors:
        return Equalized()
    extremes = _extremes(module, tensors, all_batches, progress, what)
    candidates = {t: _candidates(module, t, *extremes[t.node.name]) for t in tensors}
    chosen: list[tuple[Rescalable, Rescaling]] = []
    for group in _groups(candidates):
        tried = {
            (tensor, number): _Trial(module, tensor, rescaling, *extremes[tensor.node.name], scheme, int8)
            for tensor in group
            for number, rescaling in enumerate(candidates[tensor])
        }
        sqnr = output_sqnr_db(module, trials(), tried, generator, progress, what)
        chosen += _choose({tensor: candidates[tensor] for tensor in group}, sqnr)
    for tensor, rescaling in chosen:
        apply_rescaling(module, tensor, rescaling)
    module.recompile()
    return Equalized(
        tuple(t.node.name for t, _ in chosen),
        tuple(t.node.name for t, _ in chosen if t.producer is None),
    )


def _groups(candidates: Mapping[Rescalable, list[Rescaling]]) -> Iterator[list[Rescalable]]:
    """The tensors in groups, the candidates of each group small enough to be held at once."""
    group: list[Rescalable] = []
    held = 0
    for tensor, rescalings in candidates.items():
        size = len(rescalings) * sum(operand(c, 1).meta["val"].numel() for c in tensor.consumers)
        if group and held + size > TRIED_AT_ONCE:
            yield group
            group, held = [], 0
        group.append(tensor)
        held += size
    yield group


def _extremes(
    module: fx.GraphModule,
    tensors: list[Rescalable],
    batches: Callable[[], Iterable[Batch]],
    progress: Progress,
    what: str,
) -> dict[str, tuple[Tensor, Tensor]]:
    """The least and the largest value of each channel of each tensor, shape (channels,) each."""
    axis = {t.node.name: t.channel_axis for t in tensors}
    found: dict[str, tuple[Tensor, Tensor]] = {}

    def see(node: fx.Node, value: Any) -> Any:
        if node.name in axis:
            low, high = channels_first(value, axis[node.name]).aminmax(dim=1)
            require_finite(what, node, low, high)
            before = found.get(node.name, (low, high))
            found[node.name] = (torch.minimum(before[0], low), torch.maximum(before[1], high))
        return value

    for batch in progress.track(batches(), "equalizing: channel extremes"):
        watch(module, batch, see)
    return found


def _choose(
    candidates: Mapping[Rescalable, list[Rescaling]], sqnr: Mapping[tuple[Rescalable, int], float]
) -> list[tuple[Rescalable, Rescaling]]:
    """The best candidate of each tensor, where it gains enough over number 0, which changes nothing."""
    chosen = []
    for tensor, rescalings in candidates.items():
        found = [sqnr[tensor, number] for number in range(len(rescalings))]
        least_gain = WORTH_AN_OPERATOR_DB if tensor.producer is None else WORTHWHILE_DB
        if max(found) >= found[0] + least_gain:
            chosen.append((tensor, rescalings[found.index(max(found))]))
    return chosen


def _candidates(module: fx.GraphModule, tensor: Rescalable, low: Tensor, high: Tensor) -> list[Rescaling]:
    """No change first, then each strength, without and with shifting."""
    weight = torch.stack([input_maxima(module, consumer) for consumer in tensor.consumers]).amax(0)
    still, middle = torch.zeros_like(low), (low + high) / 2
    candidates = []
    for shift in (still, middle) if tensor.may_shift else (still,):
        largest = torch.maximum(high - shift, shift - low)
        candidates += [Rescaling(shift, _factors(largest, weight, strength)) for strength in STRENGTHS]
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
    """A rescaled tensor and its INT8 readers' weights, rounded to 8 bits: a `Change` of the readers' outputs."""

    def __init__(
        self,
        module: fx.GraphModule,
        tensor: Rescalable,
        rescaling: Rescaling,
        low: Tensor,
        high: Tensor,
        scheme: QuantScheme,
        int8: frozenset[str],
    ) -> None:
        self.tensor, self.rescaling = tensor, rescaling
        least, most = (
            float(end((bound - rescaling.shift) / rescaling.factors))
            for end, bound in ((torch.min, low), (torch.max, high))
        )
        self.round = ActivationQuantizer(grid_of(min(least, -SMALLEST), max(most, SMALLEST), scheme))
        self.layers = {
            consumer.name: _RoundedLayer(module, consumer, rescaling, scheme.weight_limit)
            for consumer in tensor.consumers
            if consumer.name in int8
        }

    @property
    def nodes(self) -> tuple[str, ...]:
        return (self.tensor.node.name, *self.layers)

    def difference(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Each reader's output from rounded input and weight, less what it is in float."""
        x = values[self.tensor.node.name]
        axis = self.tensor.channel_axis
        shift, factors = (along(t, axis, x.dim()) for t in (self.rescaling.shift, self.rescaling.factors))
        rounded = self.round((x - shift) / factors)
        return {name: layer(rounded) - values[name] for name, layer in self.layers.items()}


class _RoundedLayer:
    """A layer for a rescaled input, with its weight in int8."""

    def __init__(self, module: fx.GraphModule, layer: fx.Node, rescaling: Rescaling, limit: int) -> None:
        self.layer = layer
        weight = get_tensor(module, str(operand(layer, 1).target))
        bias = optional_operand(layer, 2)
        self.bias = None if bias is None else get_tensor(module, str(bias.target))
        if bool(rescaling.shift.any()):
            self.bias = weight @ rescaling.shift + (0 if self.bias is None else self.bias)
        rescaled = times_input_channels(layer, weight, rescaling.factors)
        quantizer = WeightQuantizer(weight_scale(rescaled, 0, limit), 0)
        self.integers, _ = quantizer.int8(rescaled)
        self.scale = quantizer.channelwise_scale(rescaled).detach()

    def __call__(self, x: Tensor) -> Tensor:
        """The layer's output."""
        assert callable(self.layer.target)
        weight = self.integers * self.scale
        result = self.layer.target(x, weight, self.bias, *self.layer.args[3:], **self.layer.kwargs)
        assert isinstance(result, Tensor)
        return result
