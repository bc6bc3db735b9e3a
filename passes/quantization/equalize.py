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
from .folding import ensure_biases
from .grids import grid_of
from .observe import Batch, watch
from .operators import ACTIVATIONS, CONVOLUTIONS, aten, get_tensor, operand, optional_operand, set_tensor
from .output_effect import output_sqnr_db
from .quantizers import ActivationQuantizer, WeightQuantizer, weight_scale

STRENGTHS = (0.0, 0.3, 0.5, 0.7, 0.85)  # 0.5 is both papers' default
FREE_GAIN_DB = 0.5  # less is within what another choice of samples would change
OPERATOR_GAIN_DB = 3.0  # half a bit: worth the one or two hundredths of the time that an operator takes
CARRIERS = (aten.relu.default,)  # operators f with f(s x) = s f(x) for s > 0, channel by channel
SMALLEST = 1e-8  # a channel that never exceeds it is dead


@dataclass(frozen=True)
class Pair:
    """A tensor whose channels may be changed: which node shows it, who reads it, who writes it.

    producer: a layer or LayerNorm that takes the change into its weights; None: an operator is put in after `shown`.
    """

    shown: fx.Node
    consumers: tuple[fx.Node, ...]
    producer: fx.Node | None

    @property
    def channel_axis(self) -> int:
        """The axis of the shown tensor that holds its channels."""
        return 1 if self.consumers[0].target in CONVOLUTIONS else -1

    @property
    def may_shift(self) -> bool:
        """Whether a constant can be taken out of each channel.

        Not before a ReLU, nor where no bias takes it up, nor where zeros are padded in.
        """
        if self.producer is not None and (
            self.producer is not self.shown or len(_constants(self.producer)) < 2
        ):
            return False
        return all(c.target is aten.linear.default for c in self.consumers)


@dataclass(frozen=True)
class Evening:
    """What is done to a tensor: (x - shift) / factors, each of shape (channels,)."""

    shift: Tensor
    factors: Tensor


def find_pairs(module: fx.GraphModule) -> list[Pair]:
    """Where equalization is exact: every reader is a layer with a weight of its own."""
    pairs = []
    for node in module.graph.nodes:
        pair = _pair_of_layer(node) if node.target not in ACTIVATIONS else _pair_of_activation(node)
        if pair is not None:
            pairs.append(pair)
    return pairs


def _pair_of_layer(node: fx.Node) -> Pair | None:
    if node.target not in (*CONVOLUTIONS, aten.linear.default, aten.layer_norm.default):
        return None
    shown = node
    while len(shown.users) == 1 and next(iter(shown.users)).target in CARRIERS:
        shown = next(iter(shown.users))
    consumers = tuple(shown.users)
    if consumers and _own_weights(node) and all(_reads_channels(c, shown, node) for c in consumers):
        return Pair(shown, consumers, node)
    return None


def _pair_of_activation(node: fx.Node) -> Pair | None:
    consumers = tuple(node.users)
    linear = all(c.target is aten.linear.default and _reads_channels(c, node, c) for c in consumers)
    carried = node.target in CARRIERS and operand(node, 0).target in (*CONVOLUTIONS, aten.linear.default)
    return Pair(node, consumers, None) if consumers and linear and not carried else None


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
        _apply(module, pair, evening)
    module.recompile()
    return [p.shown.name for p, _ in chosen], [p.shown.name for p, _ in chosen if p.producer is None]


def insert_evening(module: fx.GraphModule, node_name: str) -> None:
    """Put (x - shift) * factor after a node, as `equalize` does; to be filled in under `evening_names`."""
    node = next(n for n in module.graph.nodes if n.name == node_name)
    shift, factor = evening_names(node)
    channels = node.meta["val"].shape[-1]
    set_tensor(module, shift, torch.zeros(channels))
    set_tensor(module, factor, torch.ones(channels))
    readers = list(node.users)
    with module.graph.inserting_before(node.next):
        constants = [module.graph.get_attr(name) for name in (shift, factor)]
        shifted = module.graph.call_function(aten.sub.Tensor, (node, constants[0]))
        evened = module.graph.call_function(aten.mul.Tensor, (shifted, constants[1]))
    for constant in constants:
        constant.meta["val"] = get_tensor(module, str(constant.target))
    for new in (shifted, evened):
        new.meta.update({key: node.meta[key] for key in ("val", "nn_module_stack") if key in node.meta})
    for reader in readers:
        reader.replace_input_with(node, evened)
    module.recompile()


def evening_names(node: fx.Node) -> tuple[str, str]:
    """The names of the tensors (shift, factor) of the operator after a node, shape (channels,) each."""
    return f"{node.name}_shift", f"{node.name}_factor"


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
    weight = torch.stack([_input_maxima(module, consumer) for consumer in pair.consumers]).amax(0)
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
        self.weights: dict[str, tuple[Tensor, Tensor]] = {}
        for consumer in pair.consumers:
            weight = get_tensor(module, str(operand(consumer, 1).target))
            evened = _times_input_channels(consumer, weight, evening.factors)
            rounded = WeightQuantizer(weight_scale(evened, 0), 0)(evened).detach()
            self.weights[consumer.name] = (weight, rounded)

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.pair.shown.name,)

    @property
    def moves(self) -> tuple[str, ...]:
        return tuple(self.weights)

    def difference(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Each consumer's output from rounded input and weight, less what it is in float."""
        x = values[self.pair.shown.name]
        axis = self.pair.channel_axis
        shift, factors = (_along(t, axis, x.dim()) for t in (self.evening.shift, self.evening.factors))
        rounded = self.round((x - shift) / factors)
        found = {}
        for consumer in self.pair.consumers:
            weight, rounded_weight = self.weights[consumer.name]
            # The consumer's bias gives the shift back in float: what is left is (x - shift) by the weight.
            wanted = _call(consumer, x - shift, weight)
            found[consumer.name] = _call(consumer, rounded, rounded_weight) - wanted
        return found


def _call(consumer: fx.Node, x: Tensor, weight: Tensor) -> Tensor:
    """The layer without its bias."""
    assert callable(consumer.target)
    result = consumer.target(x, weight, None, *consumer.args[3:], **consumer.kwargs)
    assert isinstance(result, Tensor)
    return result


def _apply(module: fx.GraphModule, pair: Pair, evening: Evening) -> None:
    shift, factors = evening.shift, evening.factors
    if bool(shift.any()):
        ensure_biases(module, list(pair.consumers))
    if pair.producer is None:
        insert_evening(module, pair.shown.name)
        for name, value in zip(evening_names(pair.shown), (shift, 1 / factors), strict=True):
            set_tensor(module, name, value)
    else:
        _divide_producer(module, pair.producer, evening)
    for consumer in pair.consumers:
        name = str(operand(consumer, 1).target)
        weight = get_tensor(module, name)
        if bool(shift.any()):
            bias = str(operand(consumer, 2).target)
            set_tensor(module, bias, get_tensor(module, bias) + weight @ shift)
        set_tensor(module, name, _times_input_channels(consumer, weight, factors))


def _divide_producer(module: fx.GraphModule, producer: fx.Node, evening: Evening) -> None:
    weight, *bias = (str(constant.target) for constant in _constants(producer))
    for name in bias:  # only a LayerNorm is ever shifted, and only with a bias to take it
        set_tensor(module, name, (get_tensor(module, name) - evening.shift) / evening.factors)
    tensor = get_tensor(module, weight)
    set_tensor(module, weight, tensor / _along(evening.factors, 0, tensor.dim()))


def _along(vector: Tensor, axis: int, rank: int) -> Tensor:
    """A vector shaped to broadcast along one axis of a tensor with `rank` axes."""
    shape = [1] * rank
    shape[axis] = -1
    return vector.reshape(shape)


def _times_input_channels(consumer: fx.Node, weight: Tensor, factors: Tensor) -> Tensor:
    return weight * _along(factors, 0 if _is_depthwise(consumer) else 1, weight.dim())


def _input_maxima(module: fx.GraphModule, consumer: fx.Node) -> Tensor:
    weight = get_tensor(module, str(operand(consumer, 1).target))
    if _is_depthwise(consumer):
        return weight.abs().flatten(1).amax(1)
    return weight.abs().movedim(1, 0).flatten(1).amax(1)


def _own_weights(node: fx.Node) -> bool:
    """Whether the node's weight and bias are constants that no other node reads."""
    given = _constants(node)
    if node.target is aten.layer_norm.default and any(c.meta["val"].dim() != 1 for c in given):
        return False  # normalizes over more than the channels
    return bool(given) and all(c.op == "get_attr" and len(c.users) == 1 for c in given)


def _constants(node: fx.Node) -> list[fx.Node]:
    """The weight and bias of a layer or a LayerNorm, as far as it has them."""
    first = 2 if node.target is aten.layer_norm.default else 1
    return [c for c in (optional_operand(node, first), optional_operand(node, first + 1)) if c is not None]


def _reads_channels(consumer: fx.Node, shown: fx.Node, producer: fx.Node) -> bool:
    """Whether `consumer` is a layer with a constant weight of its own whose input channels are `shown`'s."""
    if consumer.target not in (*CONVOLUTIONS, aten.linear.default) or consumer.args[0] is not shown:
        return False
    if (consumer.target in CONVOLUTIONS) != (producer.target in CONVOLUTIONS) or not _own_weights(consumer):
        return False
    return _group_count(consumer) == 1 or _is_depthwise(consumer)


def _group_count(node: fx.Node) -> int:
    if node.target not in CONVOLUTIONS:
        return 1
    groups = node.args[6] if len(node.args) > 6 else 1
    assert isinstance(groups, int)
    return groups


def _is_depthwise(node: fx.Node) -> bool:
    groups = _group_count(node)
    shape = operand(node, 1).meta["val"].shape
    return groups > 1 and bool(shape[0] == groups and shape[1] == 1)
