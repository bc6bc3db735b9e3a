"""Trainable gates (Kim et al., AAAI 2020, arXiv 1904.10921): values of exactly 0 or 1, with gradients all the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

Gradient = Literal["constant", "sigmoid"]
REACH = 1.0
"""Gates stay within it of their threshold, so that each can be closed or revived by as many steps."""
MEMORY = 0.9
"""How much of what was noted of gradients is left after a step."""


def derivative(u: Tensor, gradient: Gradient) -> Tensor:
    """g(u), of u's shape: 1, or the derivative of the sigmoid, which dies for gates far from the threshold."""
    if gradient == "constant":
        return torch.ones_like(u)
    sigmoid = u.sigmoid()
    return sigmoid * (1 - sigmoid)


class _Threshold(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: Tensor, gradient: Gradient) -> Tensor:
        ctx.gradient = gradient
        ctx.save_for_backward(u)
        return (u > 0).to(u.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        [grad], [u] = grads, ctx.saved_tensors
        return grad * derivative(u, ctx.gradient), None


def threshold(u: Tensor, gradient: Gradient = "constant") -> Tensor:
    """b(u) = 1[u > 0], of u's shape, with the derivative g(u).

    The paper's own b(u) + s_M(u) g(u), s_M(u) = (M u - floor(M u)) / M, has nearly the same, but a closed gate then
    lets up to g / M through, and float32 has few digits left for s_M.
    """
    opened: Tensor = _Threshold.apply(u, gradient)
    return opened


class Gate(nn.Module):
    """The gates of one unit, one for each choice; forward() gives their values, (size,).

    power: the squared norm of the gradient that comes from the network, over the latest steps. factor: what that
    gradient is multiplied by, as `even_out` sets it. Both are buffers, as a resumed training needs them.
    """

    power: Tensor
    factor: Tensor

    def __init__(self, size: int, gradient: Gradient = "constant") -> None:
        super().__init__()
        self.gradient: Gradient = gradient
        self.u = nn.Parameter(torch.full((size,), REACH))
        self.register_buffer("power", torch.zeros(()))
        self.register_buffer("factor", torch.ones(()))

    def start(self, standing: Tensor) -> None:
        """Open all gates; those of the least `standing`, (size,) in (0, 1], are the first to close."""
        with torch.no_grad():
            self.u.copy_(REACH * standing)

    def forward(self) -> Tensor:
        """The values for the network, (size,). To be asked for once in each of its forwards."""
        opened: Tensor = _Noted.apply(threshold(self.u, self.gradient), self)
        return opened

    def costed(self) -> Tensor:
        """The values for a cost, (size,), without gradients in closed gates: these can save no more, and would drift
        out of reach."""
        opened = threshold(self.u, self.gradient)
        return opened * opened.detach()

    def bound(self) -> None:
        """Keep all gates within reach of their threshold."""
        with torch.no_grad():
            self.u.clamp_(-REACH, REACH)


class _Noted(torch.autograd.Function):
    """The gates' values as they are; notes the power of their gradient, and multiplies that by the gate's factor."""

    @staticmethod
    def forward(ctx: Any, opened: Tensor, gate: Gate) -> Tensor:
        ctx.gate = gate
        return opened.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        [grad], power = grads, ctx.gate.power
        now = grad.square().sum()
        # In half precision a gradient may overflow, and the step is then not taken.
        now = torch.where(torch.isfinite(now), now, power)
        power.copy_(torch.where(power > 0, MEMORY * power + (1 - MEMORY) * now, now))
        return grad * ctx.gate.factor, None


def even_out(gates: Sequence[Gate]) -> None:
    """Give the gradients that the network gives the gates of each unit the same mean square, and all together the norm
    that they had.

    A gate's gradient is a sum over samples and positions: left alone, units of large maps hold on to their choices.
    """
    known = [gate for gate in gates if bool(gate.power > 0)]
    if not known:
        return
    mean = torch.stack([gate.power for gate in known]).sum() / sum(gate.u.numel() for gate in known)
    for gate in known:
        gate.factor.copy_((mean * gate.u.numel() / gate.power).sqrt())


def task_power(gates: Sequence[Gate]) -> Tensor:
    """The squared norm of the gradient that all gates get from the network, over the latest steps; a scalar."""
    return torch.stack([gate.power * gate.factor.square() for gate in gates]).sum()
