"""The differentiable counter (Shi et al. 2023, section 3.2): what codes will take, rounded and entropy-coded.

Each code c gives symbol q the mass F((q + 1/2 - c) / h) - F((q - 1/2 - c) / h), F being the distribution function of
a kernel of half-width h: with h towards 0 that is a count. The rate is the entropy of the masses. Value and gradient
are in closed form and exact, at a cost that is linear in the number of codes (the paper's own counter is a CUDA
extension on a 128th of the weights).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from .names import KernelName


def rate(codes: Tensor, width: float = 0.5, kernel: KernelName = "triangular") -> Tensor:
    """Bits that all of `codes` (any shape) take, a scalar with a gradient to each of them.

    width: the kernel's half-width, in codes. The sum of -n(q) log2(n(q) / n) over the symbols q, n(q) being the mass
    of q and n the number of codes.
    """
    bits: Tensor = _Rate.apply(codes, width, kernel)
    return bits


def entropy_bits(symbols: Tensor) -> float:
    """Bits of rounded codes, whole numbers of any shape, at their order-0 entropy."""
    flat = symbols.reshape(-1).to(torch.int64)
    if not flat.numel():
        return 0.0
    counts = torch.bincount(flat - flat.min()).double()
    counts = counts[counts > 0]
    return float(-(counts * torch.log2(counts / flat.numel())).sum())


class _Rate(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, codes: Tensor, width: float, kernel: KernelName) -> Tensor:
        flat = codes.detach().reshape(-1).float()
        nearest = torch.round(flat)
        rest = flat - nearest
        reach = math.ceil(width)
        symbols = nearest.to(torch.int64)
        low = int(symbols.min()) - reach if flat.numel() else 0
        places = symbols - low
        masses = torch.zeros(
            int(places.max()) + reach + 1 if flat.numel() else 1, device=flat.device
        ).double()
        for offset in range(-reach, reach + 1):
            upper, lower = (_distribution((offset + end - rest) / width, kernel) for end in (0.5, -0.5))
            masses.index_add_(0, places + offset, (upper - lower).double())
        lengths = -torch.log2(masses.clamp(min=1e-12) / max(1, flat.numel()))
        context.save_for_backward(places, rest, lengths)
        context.settings = width, kernel, codes.shape, codes.dtype
        return (masses * lengths).sum().to(codes.dtype)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Any:
        """The mass that leaves a symbol at an edge enters the next one: only the difference of lengths counts."""
        places, rest, lengths = context.saved_tensors
        width, kernel, shape, dtype = context.settings
        step = (lengths[1:] - lengths[:-1]).float()
        found = torch.zeros_like(rest)
        for edge, density in _edges(rest, width, kernel):
            found += density * step[places + edge]
        return gradients[0] * found.reshape(shape).to(dtype), None, None


def _edges(rest: Tensor, width: float, kernel: KernelName) -> Iterator[tuple[int, Tensor]]:
    """Each edge that the kernel of a code reaches, as that between symbols `edge` and `edge` + 1 from the nearest."""
    reach = math.ceil(width)
    for edge in range(-reach, reach):
        yield edge, _density((edge + 0.5 - rest) / width, kernel) / width


def _distribution(x: Tensor, kernel: KernelName) -> Tensor:
    x = x.clamp(-1, 1)
    if kernel == "linear":
        return (x + 1) / 2
    if kernel == "triangular":
        return 0.5 + x - 0.5 * x * x.abs()
    return 0.5 + x / 2 + torch.sin(math.pi * x) / (2 * math.pi)


def _density(x: Tensor, kernel: KernelName) -> Tensor:
    inside = (x.abs() < 1).to(x.dtype)
    if kernel == "linear":
        return inside / 2
    if kernel == "triangular":
        return (1 - x.abs()) * inside
    return (1 + torch.cos(math.pi * x)) / 2 * inside
