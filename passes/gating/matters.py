"""Where a layer's outputs matter: gradients of the network's own predictions, position by position.

What a layer's output does to the network's answer is not the same everywhere: of a transformer that classifies by one
token the others matter less and less from block to block; of a map the border is seen by fewer layers. To second order
an error e of the outputs makes a divergence of ½ eᵀF e, where the Fisher information F is the mean of g gᵀ over
gradients g of drawn predictions (Theis et al. 2018, arXiv 1801.05787); here its diagonal, alike over the channels of a
position and over samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ..channels.removal import Removal, removed
from .products import Product, Products, calls_in_order, sample_axis
from .whole_outputs import Batch

EVEN = 0.5
"""The share of all weight that positions have alike: gradients of some samples are an estimate."""


def where_it_matters(
    whole: nn.Module, batches: Sequence[Batch], likelihood: Callable[[object, int], Tensor]
) -> dict[str, Tensor]:
    """How much each position of a layer's outputs matters, by the layer's name: (positions,), positive, mean 1.

    Positions are all axes of the outputs but the samples' and the channels', flattened in their order; where samples
    and positions lie along one axis there is but one. Left out are layers that are called several times, whose outputs
    have no axis for the samples (of at least two in a batch), whose positions are not the same in all batches, or that
    have no finite gradient.

    likelihood: of what `whole` puts out for a batch, and the index of that, the scalar that gradients are taken of: a
    sum over samples. Layers hold the outputs of a batch until its gradients are known.
    """
    network = removed(whole, Removal())  # a copy of which all parameters have gradients
    calls = calls_in_order(network, tuple(x[:1] for x in batches[0]))
    sums: dict[str, Tensor] = {}
    odd = set[str]()

    def add(name: str, squares: Tensor) -> None:
        before = sums.setdefault(name, torch.zeros_like(squares))
        if before.shape == squares.shape:
            before.add_(squares)
        else:
            odd.add(name)

    def note(product: Product, outputs: Tensor) -> Tensor | None:
        call = calls.get(product.name)
        if call is None or call.times > 1 or not outputs.requires_grad:
            return None
        axis = sample_axis(call.product, product, samples)
        if axis is None:
            return None
        outputs.register_hook(  # type: ignore[no-untyped-call]
            lambda gradient: add(product.name, _by_position(gradient, product, axis))
        )
        return outputs.clone()  # which may be changed in place

    for index, inputs in enumerate(batches):
        samples = len(inputs[0])
        with torch.enable_grad(), Products(network, after=note):
            loss = likelihood(network(*inputs), index)
        torch.autograd.backward(loss)
        network.zero_grad()
    told = {name: squares for name, squares in sums.items() if name not in odd}
    return {name: _partly_even(found) for name, found in told.items() if bool(torch.isfinite(found).all())}


def _by_position(gradient: Tensor, product: Product, axis: int) -> Tensor:
    """Squares of gradients, (positions,): means over channels, summed over samples."""
    means = gradient.double().square().mean(product.channel_axis)
    return means.movedim(axis, 0).reshape(means.shape[axis], -1).sum(0)


def _partly_even(squares: Tensor) -> Tensor:
    mean = squares.mean()
    return (EVEN + (1 - EVEN) * (squares / mean if mean > 0 else torch.ones_like(squares))).float()
