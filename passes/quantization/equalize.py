"""Equalization: move outlier channels from an activation into the weights around it, where they cost nothing.

Cross-layer equalization (Nagel et al. 2019, arXiv 1906.04721, section 4.1) between two layers, and smoothing
(SmoothQuant, Xiao et al. 2022, arXiv 2211.10438, equation 4) between a LayerNorm and its readers, are one
rewrite: divide channel j of the producer by s_j and multiply the consumers' input channel j by it, with
s_j = max|x_j|^a / max|w_j|^(1-a). The network's outputs stay the same to float error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from ...progress import Progress
from .observe import Batch, watch
from .operators import CONVOLUTIONS, aten, get_tensor, operand, optional_operand, set_tensor

STRENGTH = 0.5  # the a of both papers' default: half of the difficulty goes into the weights
CARRIERS = (aten.relu.default,)  # operators f with f(s x) = s f(x) for s > 0, channel by channel


@dataclass(frozen=True)
class Pair:
    """A tensor whose channels may be rescaled: who writes it, which node shows it, who reads it."""

    producer: fx.Node
    shown: fx.Node
    consumers: tuple[fx.Node, ...]


def find_pairs(module: fx.GraphModule) -> list[Pair]:
    """Where equalization is exact: every reader is a layer, and the writer has weights of its own."""
    pairs = []
    for node in module.graph.nodes:
        if node.target not in (*CONVOLUTIONS, aten.linear.default, aten.layer_norm.default):
            continue
        shown = node
        while len(shown.users) == 1 and next(iter(shown.users)).target in CARRIERS:
            shown = next(iter(shown.users))
        consumers = tuple(shown.users)
        if consumers and _own_weights(node) and all(_reads_channels(c, shown, node) for c in consumers):
            pairs.append(Pair(node, shown, consumers))
    return pairs


def equalize(module: fx.GraphModule, batches: Callable[[], Iterable[Batch]], progress: Progress) -> list[str]:
    """Rescale every pair of `module` in place; returns the names of the nodes that were evened out."""
    pairs = find_pairs(module)
    if not pairs:
        return []
    largest = _largest(module, pairs, batches, progress)
    for pair in pairs:
        factors = _factors(module, pair, largest[pair.shown.name])
        _rescale(module, pair, factors)
    return [pair.shown.name for pair in pairs]


def _largest(
    module: fx.GraphModule, pairs: list[Pair], batches: Callable[[], Iterable[Batch]], progress: Progress
) -> dict[str, Tensor]:
    """max |x| per channel of each pair's tensor, shape (channels,)."""
    axis = {p.shown.name: 1 if p.producer.target in CONVOLUTIONS else -1 for p in pairs}
    largest: dict[str, Tensor] = {}

    def see(node: fx.Node, value: Any) -> Any:
        if node.name in axis:
            seen = value.abs().movedim(axis[node.name], 0).flatten(1).amax(1)
            largest[node.name] = torch.maximum(largest.get(node.name, seen), seen)
        return value

    for batch in progress.track(batches(), "equalizing: channel maxima"):
        watch(module, batch, see)
    return largest


def _factors(module: fx.GraphModule, pair: Pair, activation: Tensor) -> Tensor:
    """s per channel, shape (channels,); 1 where a channel is dead on either side."""
    weight = torch.stack([_input_maxima(module, consumer) for consumer in pair.consumers]).amax(0)
    alive = (activation > 1e-8) & (weight > 1e-8)
    factors = activation.pow(STRENGTH) / weight.pow(1 - STRENGTH)
    factors = factors.clamp(1e-4, 1e4)
    # Only ratios matter: a common factor would move the range without evening it.
    typical = factors[alive].log().mean().exp() if alive.any() else torch.tensor(1.0)
    return torch.where(alive, factors / typical, torch.ones_like(factors))


def _input_maxima(module: fx.GraphModule, consumer: fx.Node) -> Tensor:
    weight = get_tensor(module, str(operand(consumer, 1).target))
    if _is_depthwise(consumer):
        return weight.abs().flatten(1).amax(1)
    return weight.abs().movedim(1, 0).flatten(1).amax(1)


def _rescale(module: fx.GraphModule, pair: Pair, factors: Tensor) -> None:
    for constant in _constants(pair.producer):
        tensor = get_tensor(module, str(constant.target))
        set_tensor(module, str(constant.target), tensor / factors.reshape(-1, *([1] * (tensor.dim() - 1))))
    for consumer in pair.consumers:
        name = str(operand(consumer, 1).target)
        weight = get_tensor(module, name)
        axis = 0 if _is_depthwise(consumer) else 1
        shape = [1] * weight.dim()
        shape[axis] = -1
        set_tensor(module, name, weight * factors.reshape(shape))


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
