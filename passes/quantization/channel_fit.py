"""Fit what each rounded channel puts out to what it put out in float, by a line, layer after layer.

Few points shrink or stretch a channel beside shifting it. The least-squares line y ≈ a z + b over calibration data
takes both out: a goes into the channel's weights, whose scale is stored anyway, and b into its bias. Banner et al.
2019 (arXiv 1810.05723, section 4) correct mean and variance of the weights likewise, without data.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor, fx

from ..graph.observe import Batch, watch
from ..graph.operators import along, channel_axis, channels_first, get_tensor, operand, set_tensor
from .bias_correction import correctable
from .placement import Placement
from .quantizers import AnyWeightQuantizer, WeightQuantizer, weight_quantizers_of

POSITIONS = 8192
"""Outputs of each channel that are kept for the fit: enough for a line, little beside the activations."""
SLOPES = (0.2, 5.0)


def fit_channels(
    float_module: fx.GraphModule, quantized: fx.GraphModule, placement: Placement, batch: Batch
) -> int:
    """Fit the channels of `quantized` in place; returns of how many layers.

    Weights are scaled where each channel has a scale of its own, and only one layer reads them; elsewhere only
    biases are shifted. Each layer needs a bias (`ensure_biases`).
    """
    layers = {node.name: node for node in correctable(float_module, placement)}
    readers = Counter[str]()
    for node in float_module.graph.nodes:
        readers[str(node.target)] += len(node.users) if node.op == "get_attr" else 0
    quantizers = weight_quantizers_of(quantized)
    scalable = {name for name, q in quantizers.items() if readers[name] == 1 and _by_channels(q)}
    wanted: dict[str, Tensor] = {}

    def note(node: fx.Node, value: Any) -> Any:
        if node.name in layers:
            wanted[node.name] = _sampled(node, value)
        return value

    def fit(node: fx.Node, value: Any) -> Any:
        if node.name not in wanted:
            return value
        weight, bias = (str(operand(layers[node.name], place).target) for place in (1, 2))
        tensor, quantizer = get_tensor(quantized, weight), quantizers.get(weight)
        least = quantizer.least / quantizer.scale.detach() if isinstance(quantizer, WeightQuantizer) else None
        slope, shift = line(_sampled(node, value), wanted.pop(node.name), weight in scalable, least)
        set_tensor(quantized, weight, tensor * along(slope, 0, tensor.dim()))
        if isinstance(quantizer, WeightQuantizer) and weight in scalable:
            quantizer.scale.data.mul_(slope)  # the others take their scales from the weight
        set_tensor(quantized, bias, get_tensor(quantized, bias) * slope + shift)
        axis = channel_axis(node)
        return value * along(slope, axis, value.dim()) + along(shift, axis, value.dim())

    watch(float_module, batch, note)
    fitted = len(wanted)
    watch(quantized, batch, fit)
    return fitted


def _by_channels(quantizer: AnyWeightQuantizer) -> bool:
    return isinstance(quantizer, WeightQuantizer) or quantizer.bucket == "channel"


def line(z: Tensor, y: Tensor, sloped: bool = True, least: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Slope a within `SLOPES` and shift b, (channels,) each, of least (a z + b - y)²; z and y (channels, positions).

    The slope is 1 where z does not vary, and everywhere unless `sloped`. least: what it must not fall below,
    (channels,): a scale that a bias asked for must not shrink.
    """
    z, y = z.double(), y.double()
    centred, mean = z - z.mean(1, keepdim=True), y.mean(1)
    variance = (centred**2).mean(1)
    varies = variance > 1e-12 * (z**2).mean(1)
    slope = torch.ones_like(mean)
    if sloped:
        found = (centred * y).mean(1) / torch.where(varies, variance, 1.0)
        slope = torch.where(varies, found.clamp(*SLOPES), slope)
        slope = slope if least is None else torch.maximum(slope, least)
    return slope.float(), (mean - slope * z.mean(1)).float()


def _sampled(node: fx.Node, value: Tensor) -> Tensor:
    """Evenly spaced outputs of each channel, (channels, at most POSITIONS)."""
    rows = channels_first(value, channel_axis(node))
    if rows.shape[1] <= POSITIONS:
        return rows
    return rows[:, torch.arange(POSITIONS) * (rows.shape[1] - 1) // (POSITIONS - 1)]
