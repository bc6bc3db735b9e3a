"""Bias correction (Nagel et al. 2019, arXiv 1906.04721, section 4.2).

Rounding weights shifts the mean of a layer's outputs. The shift is measured on calibration data and taken out
of the bias, layer after layer, so that each is corrected for inputs that are rounded and corrected already.

The mean over all positions is right where they err alike, as pixels do. In transformers one token's activations
can be a hundred times larger than all others' (Dettmers et al. 2022, arXiv 2208.07339, section 4): its clipping alone
makes the mean, and taking that out of every other token spoils them. The geometric median of the positions' errors
(Weiszfeld 1937) is moved by no minority of them. Which of the two serves is judged by the network's outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from torch import Tensor, fx

from ..graph.observe import Batch, watch
from ..graph.operators import (
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

Center = Literal["mean", "median"]
"""What of a layer's errors, one vector a position, is taken out of its bias."""
POSITIONS = 4096  # of a layer's, evenly spaced: enough for a median
STEPS = 20  # Weiszfeld's method; the first few bring most
SMALLEST = 1e-12  # of a distance that is divided by


def correctable(module: fx.GraphModule, placement: Placement) -> list[fx.Node]:
    """The quantized layers that have, or can be given, a bias."""
    quantized = {c.node for c in placement.coverage if c.quantized}
    return [
        n
        for n in module.graph.nodes
        if n.name in quantized and n.target in (*CONVOLUTIONS, aten.linear.default)
    ]


def correct_biases(
    float_module: fx.GraphModule,
    quantized: fx.GraphModule,
    placement: Placement,
    batch: Batch,
    center: Center = "mean",
) -> int:
    """Correct the biases of `quantized` in place; returns how many layers were corrected.

    `ensure_biases` must have run on the float graph before quantizers were put in: each layer needs a bias.
    """
    names = {n.name for n in correctable(float_module, placement)}
    seen, shift_of = CENTERS[center]
    wanted: dict[str, Tensor] = {}

    def note_wanted(node: fx.Node, value: Any) -> Any:
        if node.name in names:
            wanted[node.name] = seen(channels_first(value, channel_axis(node)))
        return value

    watch(float_module, batch, note_wanted)
    corrected = 0

    def correct(node: fx.Node, value: Any) -> Any:
        nonlocal corrected
        if node.name not in wanted:
            return value
        shift = shift_of(wanted.pop(node.name) - seen(channels_first(value, channel_axis(node))))
        bias = str(operand(node, 2).target)
        set_tensor(quantized, bias, get_tensor(quantized, bias) + shift)
        corrected += 1
        return value + along(shift, channel_axis(node), value.dim())

    watch(quantized, batch, correct)
    return corrected


def geometric_median(points: Tensor) -> Tensor:
    """The point with the least sum of distances to all of `points` (channels, n); shape (channels,)."""
    center = points.median(1).values
    for _ in range(STEPS):
        weights = 1 / (points - center[:, None]).norm(dim=0).clamp(min=SMALLEST)
        center = (points * weights).sum(1) / weights.sum()
    return center


def _some_positions(values: Tensor) -> Tensor:
    return values[:, :: -(-values.shape[1] // POSITIONS)].clone()


CENTERS: dict[Center, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "mean": (lambda values: values.mean(1), lambda shift: shift),
    "median": (_some_positions, geometric_median),
}
"""What is noted of a layer's values (channels, positions), and the shift that a difference of two notes asks for."""
