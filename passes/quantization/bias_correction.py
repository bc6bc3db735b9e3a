"""Bias correction (Nagel et al. 2019, arXiv 1906.04721, section 4.2).

Rounding weights shifts the mean of a layer's outputs. The shift is measured on calibration data and taken out
of the bias, layer after layer, so that each is corrected for inputs that are rounded and corrected already.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx

from .observe import Batch, watch
from .operators import (
    CONVOLUTIONS,
    along,
    aten,
    channel_axis,
    channels_first,
    get_tensor,
    operand,
    set_tensor,
)
from .placement import Placement


def correctable(module: fx.GraphModule, placement: Placement) -> list[fx.Node]:
    """The quantized layers that have, or can be given, a bias."""
    quantized = {c.node for c in placement.coverage if c.quantized}
    return [
        n
        for n in module.graph.nodes
        if n.name in quantized and n.target in (*CONVOLUTIONS, aten.linear.default)
    ]


def correct_biases(
    float_module: fx.GraphModule, quantized: fx.GraphModule, placement: Placement, batch: Batch
) -> int:
    """Correct the biases of `quantized` in place; returns how many layers were corrected.

    `ensure_biases` must have run on the float graph before quantizers were put in: each layer needs a bias.
    """
    names = {n.name for n in correctable(float_module, placement)}
    wanted: dict[str, Tensor] = {}

    def note_mean(node: fx.Node, value: Any) -> Any:
        if node.name in names:
            wanted[node.name] = _channel_means(node, value)
        return value

    watch(float_module, batch, note_mean)
    corrected = 0

    def correct(node: fx.Node, value: Any) -> Any:
        nonlocal corrected
        if node.name not in wanted:
            return value
        shift = wanted[node.name] - _channel_means(node, value)
        bias = str(operand(node, 2).target)
        set_tensor(quantized, bias, get_tensor(quantized, bias) + shift)
        corrected += 1
        return value + along(shift, channel_axis(node), value.dim())

    watch(quantized, batch, correct)
    return corrected


def _channel_means(node: fx.Node, value: Tensor) -> Tensor:
    return channels_first(value, channel_axis(node)).mean(1)
