"""How much the outputs depend on each weight, and the units that follow: finer steps for what matters more.

At the best rate for an error Σ F (w - ŵ)², F being the Fisher information of a weight, steps are in proportion to
1 / √F (uniform rounding errs by step² / 12, and a halved step costs one bit wherever it is): one step for all weights
of the network, measured in 1 / √F.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, fx, nn

from ...calibration.data import Part
from ..distillation.information import drawn_gradients
from ..quantization.operators import MATMULS, get_tensor
from ..quantization.placement import weight_axis, weight_operands
from ..training.draws import generator
from .coded import LARGEST, Unit

LEAST_ELEMENTS = 16
"""Smaller tensors stay as they are."""
SHARED = 0.1
"""Of a channel's information, how much is taken to be the tensor's mean: a channel is seen on few samples."""
LEAST_SQUARE = 1e-3
"""Of a tensor's mean square, for channels of zeros."""
GRID = 0.5
"""Units of channels are powers of two by so much: they take a few bits each."""
TRUST = 0.75
"""The information tells of small changes, and says less of changes as large as the weights: it counts to this power,
relative to the weights' own squares. On EfficientNet-Lite0 at a tenth of its bytes, untrained, the outputs' divergence
is 0.033 with 0.75, 0.062 with 1 and 0.146 with 0.5."""
REACH = 8.0
"""Units of channels differ from the tensor's middle by at most this power of two."""


def codable(graph: fx.GraphModule) -> dict[str, int | None]:
    """The float tensors of a captured graph that become codes, with the axis of their output channels if they are
    weights of a layer."""
    axes: dict[str, int | None] = {}
    for node in graph.graph.nodes:
        if node.op != "get_attr":
            continue
        tensor = get_tensor(graph, str(node.target))
        varied = tensor.is_floating_point() and tensor.numel() >= LEAST_ELEMENTS
        if varied and bool(torch.isfinite(tensor).all()) and bool(tensor.any()):
            axes.setdefault(str(node.target), None)
    for node in graph.graph.nodes:
        for weight in weight_operands(node):
            name = str(weight.target)
            if name in axes:
                matrices = node.target in MATMULS and get_tensor(graph, name).dim() != 2
                axes[name] = None if matrices else weight_axis(node, weight)
    return axes


def information(
    graph: fx.GraphModule, names: Sequence[str], part: Part, batch: int, seed: int, classification: bool
) -> dict[str, Tensor]:
    """The Fisher information of each element of the named tensors, by `drawn_gradients`: the mean over samples."""
    weights: dict[str, Tensor] = {name: nn.Parameter(get_tensor(graph, name).clone()) for name in names}
    squares = {name: torch.zeros_like(tensor) for name, tensor in weights.items()}
    draws = generator(seed, "information")
    count = 0
    for samples, gradients in drawn_gradients(graph, weights, part, batch, draws, classification):
        for name, gradient in gradients.items():
            squares[name] += gradient**2
        count += samples
    return {name: square / count for name, square in squares.items()}


def units(
    graph: fx.GraphModule, axes: Mapping[str, int | None], fisher: Mapping[str, Tensor], step: float
) -> dict[str, Unit]:
    """The unit of each tensor, `step` being the one step of the network in 1 / √F."""
    made = {}
    for name, axis in axes.items():
        tensor, square = get_tensor(graph, name), fisher[name]
        mean = square.mean().clamp(min=1e-20)
        if axis is None:
            unit = torch.maximum(step / mean.sqrt(), tensor.abs().max() / LARGEST)
            made[name] = Unit(unit)
            continue
        rest = [d for d in range(tensor.dim()) if d != axis]
        each = (1 - SHARED) * square.mean(rest) + SHARED * mean if rest else square
        own = (tensor**2).mean(rest) if rest else tensor**2
        own = own + LEAST_SQUARE * own.mean()
        each = (each * own) ** TRUST / own
        least = tensor.abs().amax(rest) if rest else tensor.abs()
        wanted = torch.maximum(step / each.sqrt(), least * (2**GRID / LARGEST))
        made[name] = Unit(_on_grid(wanted, wanted.median()), axis)
    return made


def expected_divergence(fisher: Mapping[str, Tensor], unit: Mapping[str, Tensor]) -> float:
    """Of the outputs from the unrounded network's, in nats a sample, to second order: the sum of 1/2 F unit² / 12."""
    return sum(float((square * unit[name] ** 2).sum()) / 24 for name, square in fisher.items())


def _on_grid(values: Tensor, middle: Tensor) -> Tensor:
    """The nearest powers of two on the grid, times the middle, none further from it than REACH."""
    powers = (torch.log2(values / middle) / GRID).round() * GRID
    return middle * torch.exp2(powers.clamp(-REACH, REACH))
