"""Error compensation: what rounding a weight does to its layer's outputs, the weights not yet rounded take back.

The weights w of one output channel are rounded one after another, from the input with the most energy on. The error of
each goes into the others so that the squared error of the outputs, (w - ŵ)ᵀ H (w - ŵ), is the least that is left, H
being the second moments of the layer's inputs: w ← w - (w_j - ŵ_j) / U_jj · U_j, with H⁻¹ = Uᵀ U, U upper triangular
(GPTQ, Frantar et al. 2022, arXiv 2210.17323, section 3.3). Codes then are where rounding to the nearest puts the new
weights, so that training can go on from there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, fx

from ...calibration.data import Part
from ...errors import CompressError
from ..graph.operators import CONVOLUTIONS, aten, groups_of, named_arguments, operand
from ..graph.patches import padded, patches
from .coded import Codes

POSITIONS = 4096
"""Most inputs of a layer's weights that are looked at in one batch."""
MOST_INPUTS = 8192
"""Most inputs of one output channel: the moments take the square of that."""
DAMPING = 0.01
"""Added to the energy of each input, in units of their mean."""
BLOCK = 128
"""Weights behind a block learn of its errors all at once."""


def compensable(graph: fx.GraphModule, axes: Mapping[str, int | None]) -> dict[fx.Node, str]:
    """The layers whose weights can take back errors, with the names of these: convolutions in up to two dimensions and
    linear layers, if nothing else reads the weight."""
    found = {}
    for node in graph.graph.nodes:
        if node.target not in (*CONVOLUTIONS, aten.linear.default):
            continue
        weight = operand(node, 1)
        shape = weight.meta["val"].shape
        readers = sum(
            len(n.users) for n in graph.graph.nodes if n.op == "get_attr" and n.target == weight.target
        )
        alone = readers == 1 and axes.get(str(weight.target)) == 0
        if alone and len(shape) <= 4 and math.prod(shape[1:]) <= MOST_INPUTS:
            found[node] = str(weight.target)
    return found


def second_moments(
    graph: fx.GraphModule, layers: Mapping[fx.Node, str], part: Part, batch: int
) -> dict[str, Tensor]:
    """The second moments, by the name of the weight, of what its rows are multiplied with, (groups, inputs, inputs)."""
    watcher = _Watcher(graph, layers)
    with torch.no_grad():
        for inputs, _ in part.head(max(1, len(part) // batch) * batch).batches(batch):
            watcher.run(*inputs)
    return watcher.moments


class _Watcher(fx.Interpreter):
    def __init__(self, graph: fx.GraphModule, layers: Mapping[fx.Node, str]) -> None:
        super().__init__(graph)
        self.layers = layers
        self.moments: dict[str, Tensor] = {}

    def run_node(self, n: fx.Node) -> object:
        if n in self.layers:
            (inputs, weight, *_), _ = self.fetch_args_kwargs_from_env(n)
            met = inputs_met(n, inputs, tuple(weight.shape))
            name = self.layers[n]
            self.moments[name] = self.moments.get(name, 0) + met.mT @ met
            if not bool(torch.isfinite(self.moments[name]).all()):
                raise CompressError(
                    f"l2: the inputs of the layer with {name} are too large, or NaN, for their squares to be added up"
                )
        return super().run_node(n)


def inputs_met(layer: fx.Node, inputs: Tensor, weight: tuple[int, ...]) -> Tensor:
    """What the rows of a layer's weight are multiplied with, (groups, at most POSITIONS, inputs)."""
    if layer.target not in CONVOLUTIONS:
        return _some(inputs.reshape(1, -1, inputs.shape[-1]))
    told, kernel = named_arguments(layer), weight[2:]
    inputs = padded(inputs, kernel, told["padding"], told["dilation"])
    if inputs.dim() == len(kernel) + 1:  # a single sample without the batch dimension
        inputs = inputs.unsqueeze(0)
    # Few samples, all of their positions: patches take the memory of the kernel's size times the input.
    taken = max(1, inputs.shape[0] // max(1, inputs[0, 0].numel() // POSITIONS))
    found = patches(inputs[:taken], kernel, told["stride"], told["dilation"])
    positions = math.prod(found.shape[2 + len(kernel) :])
    grouped = found.reshape(taken, groups_of(layer), -1, positions)
    return _some(grouped.permute(1, 0, 3, 2).flatten(1, 2))


def _some(rows: Tensor) -> Tensor:
    """Evenly spaced rows of (groups, rows, inputs)."""
    if rows.shape[1] <= POSITIONS:
        return rows
    return rows[:, torch.linspace(0, rows.shape[1] - 1, POSITIONS).long()]


def compensate(codes: Codes, moments: Tensor) -> None:
    """Move the latent values of a layer's weight (outputs, ...) in place, so that what rounding does to the outputs is
    taken back as far as can be.

    moments: (groups, inputs, inputs), as `second_moments` gives them. Units are one for each output channel, so that
    moments are the same in units.
    """
    groups, inputs = moments.shape[:2]
    shape, transform = codes.latent.shape, codes.transform()
    order = moments.diagonal(dim1=1, dim2=2).sum(0).argsort(descending=True)
    left = codes.latent.detach().reshape(groups, shape[0] // groups, inputs)[..., order].clone()
    factor = _factor(moments[:, order][:, :, order])
    moved = torch.empty_like(left)
    for first in range(0, inputs, BLOCK):
        last = min(first + BLOCK, inputs)
        errors = torch.empty_like(left[..., first:last])
        for j in range(first, last):
            weight = moved[..., j] = left[..., j]
            decoded = transform.decode(codes.rounded_codes(weight)).detach()
            errors[..., j - first] = (weight - decoded) / factor[:, None, j, j]
            left[..., j:last] -= errors[..., j - first, None] * factor[:, None, j, j:last]
        left[..., last:] -= errors @ factor[:, first:last, last:]
    codes.latent.data = moved[..., order.argsort()].reshape(shape)


def _factor(moments: Tensor) -> Tensor:
    """U, upper triangular, with (moments, damped)⁻¹ = Uᵀ U, of each group."""
    damped = moments.double()
    energy = damped.diagonal(dim1=1, dim2=2)
    mean = energy.mean(1, keepdim=True)
    energy += torch.where(mean > 0, DAMPING * mean, 1.0)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    factor: Tensor = torch.linalg.cholesky(inverse, upper=True)
    return factor.float()
