"""Where a tensor's channels can be shifted and scaled without changing the outputs, and the rewrite that does it.

Dividing channel j of a tensor by s_j is undone by multiplying its readers' input channel j by s_j, and subtracting
a constant from it by what the readers' weights make of the constant, added to their biases. The layer or LayerNorm
that writes the tensor takes the change into its own weights; after an activation function an operator is put in.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, fx

from .folding import ensure_biases
from .operators import ACTIVATIONS, CONVOLUTIONS, aten, get_tensor, operand, optional_operand, set_tensor

CARRIERS = (aten.relu.default,)  # operators f with f(s x) = s f(x) for s > 0, channel by channel


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
        taken_up = self.producer is None or (
            self.producer is self.shown and len(_constants(self.producer)) == 2
        )
        return taken_up and all(c.target is aten.linear.default for c in self.consumers)


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


def apply_evening(module: fx.GraphModule, pair: Pair, evening: Evening) -> None:
    """Change the pair's tensor by `evening`, in place; the outputs stay the same to float error."""
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
        set_tensor(module, name, times_input_channels(consumer, weight, factors))


def _divide_producer(module: fx.GraphModule, producer: fx.Node, evening: Evening) -> None:
    weight, *bias = (str(constant.target) for constant in _constants(producer))
    for name in bias:
        set_tensor(module, name, (get_tensor(module, name) - evening.shift) / evening.factors)
    tensor = get_tensor(module, weight)
    set_tensor(module, weight, tensor / along(evening.factors, 0, tensor.dim()))


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


def input_maxima(module: fx.GraphModule, consumer: fx.Node) -> Tensor:
    """max |w| over each input channel of a layer's weight, shape (channels,)."""
    weight = get_tensor(module, str(operand(consumer, 1).target))
    if _is_depthwise(consumer):
        return weight.abs().flatten(1).amax(1)
    return weight.abs().movedim(1, 0).flatten(1).amax(1)


def times_input_channels(consumer: fx.Node, weight: Tensor, factors: Tensor) -> Tensor:
    """The weight with input channel j multiplied by factors[j]."""
    return weight * along(factors, 0 if _is_depthwise(consumer) else 1, weight.dim())


def along(vector: Tensor, axis: int, rank: int) -> Tensor:
    """A vector shaped to broadcast along one axis of a tensor with `rank` axes."""
    shape = [1] * rank
    shape[axis] = -1
    return vector.reshape(shape)


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
