"""Where a layer's outputs matter: gradients of the network's own predictions, position by position.

What a layer's output does to the network's answer is not the same everywhere: of a transformer that classifies by one
token the others matter less from block to block, and not at all in the last one; of a map the border is seen by fewer.
To second order an error e of the outputs makes a divergence of ½ eᵀF e, with the Fisher information F as the mean of
gᵀg over gradients g of drawn predictions (Theis et al. 2018, arXiv 1801.05787); here its diagonal, alike over the
channels of a position and over samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from ..channels.removal import Removal, removed
from .products import Call, Product, Products, calls_in_order, sample_axis

EVEN = 0.5
"""The share of all weight that positions have alike: a gradient on few samples is a guess."""
SMALL = 8
"""Samples of which all outputs are held at once."""
Batch = tuple[Tensor, ...]


def where_it_matters(
    whole: nn.Module, batch: Batch, likelihood: Callable[[int, object], Tensor]
) -> dict[str, Tensor]:
    """How much each position of a layer's outputs matters, by the layer's name: (positions,), positive, mean 1.

    Positions are all axes of the outputs, flattened, but for the samples' and the channels'. Layers whose outputs have
    no axis for the samples, or no finite gradient, are left out.
    likelihood: of the number of some samples in order, and what `whole` puts out for them, a scalar: a sum over these.
    """
    network = removed(whole, Removal())  # a copy of which all parameters have gradients
    one = calls_in_order(network, tuple(x[:1] for x in batch))
    sums: dict[str, Tensor] = {}
    for index, inputs in enumerate(zip(*(torch.split(x, SMALL) for x in batch), strict=True)):
        for name, squares in _squares(network, inputs, one, partial(likelihood, index)).items():
            sums[name] = sums.get(name, 0.0) + squares
    return {name: _mixed(found) for name, found in sums.items() if bool(torch.isfinite(found).all())}


def _squares(
    network: nn.Module, inputs: Batch, one: Mapping[str, Call], likelihood: Callable[[object], Tensor]
) -> dict[str, Tensor]:
    """Of each layer's outputs the squares of the gradients, (positions,), summed over samples."""
    made: dict[str, tuple[Product, Tensor]] = {}

    def note(product: Product, outputs: Tensor) -> None:
        if outputs.requires_grad:
            made[product.name] = product, outputs

    with torch.enable_grad(), Products(network, after=note):
        loss = likelihood(network(*inputs))
    if not made:
        return {}
    gradients = torch.autograd.grad(loss, [outputs for _, outputs in made.values()], materialize_grads=True)
    squares = {}
    for (name, (product, _)), gradient in zip(made.items(), gradients, strict=True):
        axis = sample_axis(one[name].product, product, len(inputs[0]))
        if axis is not None:
            means = gradient.double().square().mean(product.channel_axis)
            squares[name] = means.movedim(axis, 0).reshape(means.shape[axis], -1).sum(0)
    return squares


def _mixed(squares: Tensor) -> Tensor:
    mean = squares.mean()
    return (EVEN + (1 - EVEN) * (squares / mean if mean > 0 else torch.ones_like(squares))).float()
