"""How much the outputs depend on each weight, and the units that follow: finer steps for what matters more.

At the best rate for an error Σ F (w - ŵ)², F being the Fisher information of a weight, steps are in proportion to
1 / √F (uniform rounding errs by step² / 12, and a halved step costs one bit wherever it is): one step for all weights
of the network, measured in 1 / √F.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, fx, nn

from ...calibration.data import Part
from ...errors import CompressError
from ...progress import Progress, Silent
from ..graph.folding import LEARNED
from ..graph.layers import weight_axis, weight_operands
from ..graph.operators import MATMULS, get_tensor
from ..quantization.quantizers import weight_quantizers_of
from ..teaching.information import drawn_gradients
from ..teaching.task import Task
from ..training.draws import generator
from .coded import WIDEST, Unit

LEAST_ELEMENTS = 16
"""Smaller tensors are not worth a list of values."""
SHARED = 0.1
"""Share of a channel's information that is taken to be the tensor's mean: a channel is seen on few samples."""
LEAST_INFORMATION = 1e-20
"""Information of a tensor that the outputs do not depend on, relative to the one that they depend on most."""
GRID = 0.5
"""Units of channels are powers of two by so much: they take a few bits each."""
LEAST_EXPONENT = -126
"""Least exponent of a power of two that is a normal float32."""
REACH = 64
"""Powers of two between the largest unit of a tensor's channels and the smallest: far more than weights have."""


def codable(graph: fx.GraphModule) -> dict[str, int | None]:
    """The float tensors of a captured graph that become codes, with the axis of their output channels if they are
    weights of a layer: its parameters, and what was computed from these once and for all.

    Other buffers, such as masks and tables of positions, stay as they are: they are not learned, and a mask's -100 is
    nothing that the outputs depend on a little. Raises CompressError for parameters of another type than float32.
    """
    layers = {
        str(weight.target): (node, weight) for node in graph.graph.nodes for weight in weight_operands(node)
    }
    learned = {*dict(graph.named_parameters()), *graph.meta.get(LEARNED, ())}
    learned -= weight_quantizers_of(graph).keys()  # these say themselves how they are stored
    axes: dict[str, int | None] = {}
    for name in dict.fromkeys(str(node.target) for node in graph.graph.nodes if node.op == "get_attr"):
        tensor = get_tensor(graph, name)
        if name not in learned or not tensor.is_floating_point() or not tensor.numel():
            continue
        if tensor.dtype != torch.float32:
            kind = str(tensor.dtype).removeprefix("torch.")
            raise CompressError(f"l2: {name} is {kind}; give the network in float32, as .float() makes it")
        if not bool(torch.isfinite(tensor).all()):
            continue
        axes[name] = None
        if name in layers and tensor.numel() >= LEAST_ELEMENTS:
            node, weight = layers[name]
            if node.target not in MATMULS or tensor.dim() == 2:
                axes[name] = weight_axis(node, weight)
    return axes


def information(
    graph: fx.GraphModule,
    names: Sequence[str],
    part: Part,
    batch: int,
    seed: int,
    task: Task,
    progress: Progress = Silent(),
) -> dict[str, Tensor]:
    """The Fisher information of each element of the named tensors, by `drawn_gradients`: the mean over samples."""
    weights: dict[str, Tensor] = {name: nn.Parameter(get_tensor(graph, name).clone()) for name in names}
    squares = {name: torch.zeros_like(tensor) for name, tensor in weights.items()}
    draws = generator(seed, "information")
    count = 0
    found = drawn_gradients(graph, weights, part, batch, draws, task)
    for samples, gradients in progress.track(
        found, "l2: how much the outputs depend on each weight", max(1, len(part) // batch)
    ):
        for name, gradient in gradients.items():
            squares[name] += gradient**2
        count += samples
    for name, square in squares.items():
        if not bool(torch.isfinite(square).all()):
            raise CompressError(
                f"l2: the outputs' gradient in {name} is NaN or infinite: the network computes with values out of range"
            )
    if not any(bool(square.any()) for square in squares.values()):
        raise CompressError(
            "l2: no output depends on the weights by a gradient: they are integers, or classes that are all certain;"
            " give logits that are not scaled up"
        )
    return {name: square / count for name, square in squares.items()}


def units(
    graph: fx.GraphModule,
    axes: Mapping[str, int | None],
    fisher: Mapping[str, Tensor],
    step: float,
    reach: float,
) -> dict[str, Unit]:
    """The unit of each tensor, `step` being the one step of the network in 1 / √F, relative to the mean F of the tensor
    that matters most.

    reach: the largest weight that has a code, in units. Of weights the unit is wide enough for that; another tensor
    for which that would be too wide becomes a wide one, as one of few elements does. A tensor for which even that is
    too wide has no unit: it stays as it is.
    """
    made = {}
    most_information = max(float(square.mean()) for square in fisher.values())
    step = step / math.sqrt(most_information)
    for name, axis in axes.items():
        tensor, square = get_tensor(graph, name), fisher[name]
        mean = square.mean().clamp(min=LEAST_INFORMATION * most_information)
        if axis is None:
            wanted, largest = step / mean.sqrt(), tensor.abs().max()
            if tensor.numel() >= LEAST_ELEMENTS and bool(largest <= reach * wanted):
                made[name] = Unit(wanted)
            elif bool(largest <= WIDEST * (unit := _power_of_two(float(wanted)))):
                made[name] = Unit(unit, wide=True)
            continue
        rest = [d for d in range(tensor.dim()) if d != axis]
        each = (1 - SHARED) * square.mean(rest) + SHARED * mean if rest else square
        most = tensor.abs().amax(rest) if rest else tensor.abs()
        # The nearest power of two may be smaller by half a place of the grid.
        made[name] = Unit(_on_grid(torch.maximum(step / each.sqrt(), most * (2**GRID / reach))), axis)
    return made


def _power_of_two(wanted: float) -> Tensor:
    """The largest power of two no wider: its multiples are floats whose last bits are zeros, which take nothing."""
    exponent = math.floor(math.log2(wanted)) if wanted > 0 else LEAST_EXPONENT
    return torch.tensor(2.0 ** min(max(exponent, LEAST_EXPONENT), -LEAST_EXPONENT))


def expected_divergence(fisher: Mapping[str, Tensor], unit: Mapping[str, Tensor]) -> float:
    """Divergence from the unrounded network, in nats a sample, to second order: the sum of 1/2 F unit² / 12."""
    return sum(float((fisher[name] * each**2).sum()) / 24 for name, each in unit.items())


def _on_grid(values: Tensor) -> Tensor:
    """The nearest powers of two on the grid, times the middle one, none further below the largest than REACH."""
    middle = values.median()
    powers = (torch.log2(values / middle) / GRID).round() * GRID
    return middle * torch.exp2(powers.clamp(min=float(powers.max()) - REACH))
