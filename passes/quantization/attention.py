"""Attention: where the weights that softmax gives are too fine for an 8-bit grid, their product stays float.

A softmax over N tokens has a mean of 1/N, and one token can have all of it. On a symmetric grid, 127 steps from 0
to 1, weights below 1/254 round to 0 and are lost to the sum; with 257 tokens that is most of them. Whether it
matters is judged by the network's outputs.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import fx

from ..graph.layers import layer_name
from ..graph.operators import MATMULS, SOFTMAXES, named_arguments
from .placement import Placement, source_of


def softmaxes(module: fx.GraphModule) -> dict[str, list[fx.Node]]:
    """What softmaxes each product of attention weights and values reads, by the product's layer name.

    A module that is called twice is one layer with two softmaxes.
    """
    found: dict[str, list[fx.Node]] = {}
    for node in module.graph.nodes:
        for factor in node.args[:2] if node.target in MATMULS else ():
            source = source_of(factor)
            if source.target in SOFTMAXES:
                found.setdefault(layer_name(node), []).append(source)
    return found


def too_fine(
    module: fx.GraphModule, placement: Placement, sqnr_db: Mapping[str, float], least_db: float
) -> dict[str, str]:
    """The quantized products whose weights' rounding alone leaves the outputs less than `least_db`; and why.

    sqnr_db: the outputs' SQNR when the tensor of that node alone is rounded.
    """
    quantized = {c.layer for c in placement.coverage if c.quantized}
    reasons = {}
    for layer, nodes in softmaxes(module).items():
        worst = min(nodes, key=lambda node: sqnr_db.get(node.name, least_db))
        left = sqnr_db.get(worst.name, least_db)
        if layer in quantized and left < least_db:
            reasons[layer] = (
                f"a softmax over {_width(worst)} is too fine for an 8-bit grid: rounding it alone leaves the outputs"
                f" {left:.0f} dB (softmax_sqnr_db: {least_db:g})"
            )
    return reasons


def _width(node: fx.Node) -> str:
    count = node.meta["val"].shape[named_arguments(node)["dim"]]
    return f"{count} tokens" if isinstance(count, int) else "so many tokens"
