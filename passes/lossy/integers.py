"""Networks that are quantized already: their weights stay on the integers that they have, every k-th of them.

What the engine computes with is then what the file holds: no grid is laid over another one.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from ..graph.operators import along, get_tensor, set_tensor
from ..quantization.quantizers import WeightQuantizer, weight_quantizers_of
from .coded import Unit

COARSEST = 64
"""Every how many-th integer is used at most: of 127 on either side two are left then."""


@dataclass(frozen=True)
class Integers:
    """A weight that a quantized graph stores as INT8.

    values: the integers, of the weight's shape; scale: of each channel along `axis`, (channels,).
    """

    values: Tensor
    scale: Tensor
    axis: int

    def weight(self) -> Tensor:
        """The real values."""
        return self.values.float() * along(self.scale, self.axis, self.values.dim())

    def unit(self, wanted: Tensor) -> Unit:
        """The unit nearest to those that are wanted for each channel, (channels,): every k-th integer of all of them.

        One k for the whole tensor: its integers are coded together. None reaches further than the largest does.
        """
        most = int(self.values.abs().max())
        ratio = torch.log(wanted / self.scale).mean().exp()
        k = min(max(1, round(float(ratio))), COARSEST, max(1, most))
        return Unit(k * self.scale, self.axis, reach=most // k)


def integers_of(graph: fx.GraphModule) -> dict[str, Integers]:
    """The weights of a quantized graph that are stored as INT8 with a scale for each channel, by tensor."""
    found = {}
    for name, quantizer in weight_quantizers_of(graph).items():
        if isinstance(quantizer, WeightQuantizer) or quantizer.bucket == "channel":
            values, scale = quantizer.int8(get_tensor(graph, name))
            found[name] = Integers(values, scale, quantizer.axis)
    return found


def read_plainly(graph: fx.GraphModule, integers: Mapping[str, Integers]) -> fx.GraphModule:
    """A copy of a quantized graph that reads these weights as they are; what rounds activations stays."""
    plain = copy.deepcopy(graph)
    for node in list(plain.graph.nodes):
        read = node.args[0] if node.op == "call_module" and node.args else None
        if isinstance(read, fx.Node) and read.op == "get_attr" and str(read.target) in integers:
            node.replace_all_uses_with(read)
            plain.graph.erase_node(node)
    for name, each in integers.items():
        set_tensor(plain, name, each.weight())
    plain.delete_all_unused_submodules()
    plain.recompile()
    return plain


def settled(graph: fx.GraphModule, integers: Mapping[str, Integers]) -> fx.GraphModule:
    """A copy of a quantized graph whose scales of these weights no longer follow from the weights."""
    found = copy.deepcopy(graph)
    for node in found.graph.nodes:
        read = node.args[0] if node.op == "call_module" and node.args else None
        if isinstance(read, fx.Node) and read.op == "get_attr" and str(read.target) in integers:
            each = integers[str(read.target)]
            setattr(found, str(node.target), WeightQuantizer(each.scale.clone(), each.axis))
    for name, each in integers.items():
        set_tensor(found, name, each.weight())
    return found
