"""How much each choice matters before any training: first-order Taylor importance, and ranks by it.

Molchanov et al., CVPR 2019 (arXiv 1906.10771), equation 8 at gates: the squared change of the loss that closing a gate
would make to first order, (dL/dg · g)², as a mean over samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from ...errors import CompressError
from ..channels.units import Gates, Unit
from .cost import Cost
from .widths import Widths

Loss = Callable[[Gates], Tensor]
"""The loss of one sample, or the mean over few, with these gates: a scalar that gradients flow through."""


def taylor(
    losses: Iterable[Loss], units: Sequence[Unit], device: torch.device | str = "cpu"
) -> dict[str, Tensor]:
    """The importance of each choice, (size,) of each unit on the CPU, with all of them open.

    losses: one for each sample, or for few at once; gradients of many cancel out. They must not be at their least, as
    the divergence of a network from itself is: take labels, or labels drawn from its outputs. Raises CompressError
    where a gradient is not finite, or all of them are zero.
    """
    sums = {unit.name: torch.zeros(unit.size, dtype=torch.float64) for unit in units}
    count = 0
    for loss in losses:
        gates = {unit.name: torch.ones(unit.size, device=device, requires_grad=True) for unit in units}
        gradients = torch.autograd.grad(loss(gates), list(gates.values()), allow_unused=True)
        for name, gradient in zip(gates, gradients, strict=True):
            if gradient is not None:
                sums[name] += gradient.detach().cpu().double().square()
        count += 1
    if odd := [name for name, each in sums.items() if not bool(torch.isfinite(each).all())]:
        raise CompressError(
            f"gates: the loss has no finite gradient in the gates of {odd[0]}: the network overflows"
        )
    if units and not any(bool(each.any()) for each in sums.values()):
        raise CompressError(
            "gates: the network's outputs do not depend on any gate, as where a last layer is zero or outputs are"
            " saturated; check that its weights were loaded"
        )
    return {name: (each / max(1, count)).float() for name, each in sums.items()}


def worth(importance: Mapping[str, Tensor], cost: Cost, units: Sequence[Unit]) -> dict[str, Tensor]:
    """Importances over what a choice of the unit costs, (size,) of each unit: those of least worth are best to lose."""
    prices = Widths(units, importance, cost, round_to=1, least=0.0).prices()
    return {unit.name: importance[unit.name] / price for unit, price in zip(units, prices, strict=True)}


def standing(scores: Mapping[str, Tensor], units: Sequence[Unit]) -> dict[str, Tensor]:
    """The rank of each choice among all over their number, (size,) in (0, 1]; of equal scores the first is higher."""
    together = torch.cat([scores[unit.name].double() for unit in units])
    order = torch.argsort(together, descending=True, stable=True)
    ranks = torch.empty(len(together))
    ranks[order] = torch.arange(len(together), 0, -1, dtype=ranks.dtype) / len(together)
    each = torch.split(ranks, [unit.size for unit in units])
    return {unit.name: values for unit, values in zip(units, each, strict=True)}
