"""Attention: where the weights that softmax gives are too fine for an 8-bit grid, their product stays float.

A softmax over N tokens has a mean of 1/N, and one token can have all of it. On a grid from 0 to 1 with 127 steps,
weights below 1/254 round to 0 and are lost to the sum; with 257 tokens that is most of them.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import fx

from .operators import MATMULS, SOFTMAXES, operand
from .placement import Placement, layer_name, source_of


def softmaxes(module: fx.GraphModule) -> dict[str, fx.Node]:
    """The softmax that each product of attention weights and values reads, by the product's layer name."""
    products = [n for n in module.graph.nodes if n.target in MATMULS]
    sources = {layer_name(n): source_of(operand(n, 0)) for n in products}
    return {layer: source for layer, source in sources.items() if source.target in SOFTMAXES}


def too_fine(
    module: fx.GraphModule, placement: Placement, sqnr_db: Mapping[str, float], least_db: float
) -> dict[str, str]:
    """The quantized products whose weights' rounding alone leaves the outputs less than `least_db`; and why.

    sqnr_db: the outputs' SQNR when the tensor of that node alone is rounded.
    """
    quantized = {c.layer for c in placement.coverage if c.quantized}
    return {
        layer: (
            f"a softmax over {_width(node)} is too fine for an 8-bit grid: rounding it alone leaves the outputs"
            f" {sqnr_db[node.name]:.0f} dB (softmax_sqnr_db: {least_db:g})"
        )
        for layer, node in softmaxes(module).items()
        if layer in quantized and sqnr_db.get(node.name, least_db) < least_db
    }


def _width(node: fx.Node) -> str:
    count = node.meta["val"].shape[-1]
    return f"{count} tokens" if isinstance(count, int) else "so many tokens"
