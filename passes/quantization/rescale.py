"""Where a tensor's channels can be shifted and scaled without changing the outputs, and the rewrite that does it.

Dividing channel j of a tensor by s_j is undone by multiplying its readers' input channel j by s_j, and subtracting
a constant from it by what the readers' weights make of the constant, added to their biases. The layer or LayerNorm
that writes the tensor takes the change into its own weights; after an activation function an operator is put in.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, fx

from ..graph.folding import ensure_biases
from ..graph.operators import (
    ACTIVATIONS,
    CONVOLUTIONS,
    along,
    aten,
    channel_axis,
    get_tensor,
    groups_of,
    operand,
    optional_operand,
    set_tensor,
)

CARRIERS = (aten.relu.default,)  # operators f with f(s x) = s f(x) for s > 0, channel by channel
LAYERS = (*CONVOLUTIONS, aten.linear.default)


@dataclass(frozen=True)
class Rescalable:
    """A tensor whose channels may be changed: the node that shows it, the layers that read it, and who writes it.

    producer: a layer or LayerNorm that takes the change into its weights; None: an operator is put in after `node`.
    """

    node: fx.Node
    consumers: tuple[fx.Node, ...]
    producer: fx.Node | None

    @property
    def channel_axis(self) -> int:
        """The axis of the tensor that holds its channels, counted from the end."""
        return channel_axis(self.consumers[0])

    @property
    def may_shift(self) -> bool:
        """Whether a constant can be taken out of each channel.

        Not before a ReLU, nor where no bias takes it up, nor where zeros are padded in.
        """
        taken_up = self.producer is None or (
            self.producer is self.node and _bias_place(self.producer) is not None
        )
        return taken_up and all(c.target is aten.linear.default for c in self.consumers)


@dataclass(frozen=True)
class Rescaling:
    """What is done to a tensor: (x - shift) / factors, each of shape (channels,)."""

    shift: Tensor
    factors: Tensor


def find_rescalable(module: fx.GraphModule) -> list[Rescalable]:
    """Where a rescaling is exact: every reader is a layer with a weight of its own."""
    found: dict[fx.Node, Rescalable] = {}
    for node in module.graph.nodes:
        tensor = _written_by_layer(node) or _written_by_activation(node)
        # Of a ReLU after a layer both tell; the layer comes first, and takes the change for nothing.
        if tensor is not None:
            found.setdefault(tensor.node, tensor)
    return list(found.values())


def _written_by_layer(node: fx.Node) -> Rescalable | None:
    if node.target not in (*LAYERS, aten.layer_norm.default) or not _own_weights(node):
        return None
    shown = node
    while len(shown.users) == 1 and next(iter(shown.users)).target in CARRIERS:
        shown = next(iter(shown.users))
    consumers = tuple(shown.users)
    kinds = CONVOLUTIONS if node.target in CONVOLUTIONS else (aten.linear.default,)
    if consumers and all(c.target in kinds and _reads_channels(c, shown) for c in consumers):
        return Rescalable(shown, consumers, node)
    return None


def _written_by_activation(node: fx.Node) -> Rescalable | None:
    consumers = tuple(node.users)
    linear = all(c.target is aten.linear.default and _reads_channels(c, node) for c in consumers)
    return Rescalable(node, consumers, None) if node.target in ACTIVATIONS and consumers and linear else None


def apply_rescaling(module: fx.GraphModule, tensor: Rescalable, rescaling: Rescaling) -> None:
    """Rescale a tensor in place; the network's outputs stay the same to float error."""
    shift, factors = rescaling.shift, rescaling.factors
    if bool(shift.any()):
        ensure_biases(module, list(tensor.consumers))
    if tensor.producer is None:
        insert_rescaling(module, tensor.node.name)
        for name, value in zip(rescaling_names(tensor.node), (shift, 1 / factors), strict=True):
            set_tensor(module, name, value)
    else:
        _rescale_producer(module, tensor.producer, rescaling)
    for consumer in tensor.consumers:
        name = str(operand(consumer, 1).target)
        weight = get_tensor(module, name)
        if bool(shift.any()):
            bias = str(operand(consumer, 2).target)
            set_tensor(module, bias, get_tensor(module, bias) + weight @ shift)
        set_tensor(module, name, times_input_channels(consumer, weight, factors))


def _rescale_producer(module: fx.GraphModule, producer: fx.Node, rescaling: Rescaling) -> None:
    name = str(operand(producer, _weight_index(producer)).target)
    weight = get_tensor(module, name)
    set_tensor(module, name, weight / along(rescaling.factors, 0, weight.dim()))
    bias = _bias_place(producer)
    if bias is not None:
        shifted = get_tensor(module, str(bias.target)) - rescaling.shift
        set_tensor(module, str(bias.target), shifted / rescaling.factors)


def insert_rescaling(module: fx.GraphModule, node_name: str) -> None:
    """Put (x - shift) * factor after a node; 0 and 1 until they are set under `rescaling_names`."""
    node = next(n for n in module.graph.nodes if n.name == node_name)
    channels = node.meta["val"].shape[-1]
    names = rescaling_names(node)
    assert not any(hasattr(module, name) for name in names)
    for name, value in zip(names, (torch.zeros(channels), torch.ones(channels)), strict=True):
        set_tensor(module, name, value)
    readers = list(node.users)
    with module.graph.inserting_before(node.next):
        constants = [module.graph.get_attr(name) for name in names]
        shifted = module.graph.call_function(aten.sub.Tensor, (node, constants[0]))
        rescaled = module.graph.call_function(aten.mul.Tensor, (shifted, constants[1]))
    for constant in constants:
        constant.meta["val"] = get_tensor(module, str(constant.target))
    for new in (shifted, rescaled):
        new.meta.update({key: node.meta[key] for key in ("val", "nn_module_stack") if key in node.meta})
    for reader in readers:
        reader.replace_input_with(node, rescaled)
    module.recompile()


def rescaling_names(node: fx.Node) -> tuple[str, str]:
    """The names of the tensors (shift, factor) of the operator after a node, shape (channels,) each.

    The prefix keeps them apart from a network's own tensors.
    """
    return f"edgepress_{node.name}_shift", f"edgepress_{node.name}_factor"


def times_input_channels(consumer: fx.Node, weight: Tensor, factors: Tensor) -> Tensor:
    """The weight with input channel j multiplied by factors[j]."""
    return weight * along(factors, 0 if _is_depthwise(consumer) else 1, weight.dim())


def input_maxima(module: fx.GraphModule, consumer: fx.Node) -> Tensor:
    """max |w| over each input channel of a layer's weight, shape (channels,)."""
    weight = get_tensor(module, str(operand(consumer, 1).target))
    return weight.abs().movedim(0 if _is_depthwise(consumer) else 1, 0).flatten(1).amax(1)


def _weight_index(node: fx.Node) -> int:
    return 2 if node.target is aten.layer_norm.default else 1


def _bias_place(node: fx.Node) -> fx.Node | None:
    return optional_operand(node, _weight_index(node) + 1)


def _own_weights(node: fx.Node) -> bool:
    """Whether a layer or LayerNorm has a weight, and whether it and the bias are constants that no other node reads."""
    weight, bias = optional_operand(node, _weight_index(node)), _bias_place(node)
    if weight is None or (node.target is aten.layer_norm.default and weight.meta["val"].dim() != 1):
        return False  # nothing to take a factor, or a norm over more than the channels
    return all(c.op == "get_attr" and len(c.users) == 1 for c in (weight, bias) if c is not None)


def _reads_channels(consumer: fx.Node, node: fx.Node) -> bool:
    """Whether `consumer` is a layer with a weight of its own whose input channels are those of `node`."""
    if consumer.target not in LAYERS or consumer.args[0] is not node or not _own_weights(consumer):
        return False
    return groups_of(consumer) == 1 or _is_depthwise(consumer)


def _is_depthwise(node: fx.Node) -> bool:
    groups = groups_of(node)
    shape = operand(node, 1).meta["val"].shape
    return groups > 1 and bool(shape[0] == groups and shape[1] == 1)
