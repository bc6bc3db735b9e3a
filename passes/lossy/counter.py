"""The differentiable counter (Shi et al. 2023, section 3.2): what codes will take, rounded and entropy-coded.

Each code c gives symbol q the mass F((q + 1/2 - c) / h) - F((q - 1/2 - c) / h), F being the distribution function of
a kernel of half-width h: with h towards 0 that is a count. The rate is the entropy of the masses. Value and gradient
are in closed form and exact, at a cost that is linear in the number of codes (the paper's own counter is a CUDA
extension on a 128th of the weights).

A packed file codes weights of unlike rows and columns by unlike tables. So that the count is that of the file, codes
fall into groups of which each has masses of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from .names import KernelName

SYMBOLS_A_GROUP, MOST_GROUPS = 8192, 8
"""So many symbols are worth a table."""
SAMPLE = 1 << 13
"""Symbols among which the cuts between groups are found."""
GOLDEN_SECTION = (5**0.5 - 1) / 2


def rate(
    codes: Tensor, width: float = 0.5, kernel: KernelName = "triangular", groups: Tensor | None = None
) -> Tensor:
    """Bits that all of `codes` (any shape) take, a scalar with a gradient to each of them.

    width: the kernel's half-width, in codes; groups: the number of each code's group, same shape, all one without.
    The sum of -n(g, q) log2(n(g, q) / n(g)) over groups g and symbols q, n(g, q) being the mass of q among the n(g)
    codes of g.
    """
    if not codes.numel():
        return codes.sum()
    if groups is None:
        groups = torch.zeros_like(codes, dtype=torch.int64)
    bits: Tensor = _Rate.apply(codes, width, kernel, groups)
    return bits


def entropy_bits(symbols: Tensor, groups: Tensor | None = None) -> float:
    """Bits of rounded codes, whole numbers of any shape, at the order-0 entropy of each group."""
    flat = symbols.reshape(-1).to(torch.int64)
    if not flat.numel():
        return 0.0
    flat = flat - flat.min()
    span = int(flat.max()) + 1
    if groups is not None:
        flat = flat + span * groups.reshape(-1)
    counts = torch.bincount(flat, minlength=-(-int(flat.max() + 1) // span) * span).double().reshape(-1, span)
    shares = counts / counts.sum(1, keepdim=True).clamp(min=1)
    return float(-(counts * torch.log2(shares.clamp(min=1e-300))).sum())


def alike(symbols: Tensor) -> Tensor:
    """Groups of rounded codes, same shape, int64, by how large the other codes of their row and column are.

    Rows are slices along the first axis, as for the contexts of an .l2z file: these know the codes before one, these
    here all others, at about the same gain.
    """
    number = min(MOST_GROUPS, symbols.numel() // SYMBOLS_A_GROUP)
    if number < 2 or symbols.dim() < 2:
        return torch.zeros_like(symbols, dtype=torch.int64)
    sizes = symbols.abs().float().reshape(symbols.shape[0], -1)
    in_row, in_column = ((sizes.sum(axis, keepdim=True) - sizes + 0.5) / sizes.shape[axis] for axis in (1, 0))
    products = (in_row * in_column).reshape(-1)
    # Steps of a golden section come by all rows and columns evenly, however many there are.
    turns = torch.arange(SAMPLE, dtype=torch.float64, device=products.device) * GOLDEN_SECTION % 1
    some = products[(turns * products.numel()).long()]
    cuts = torch.quantile(some, torch.arange(1, number, device=some.device) / number)
    return torch.bucketize(products, cuts).reshape(symbols.shape)


class _Rate(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, codes: Tensor, width: float, kernel: KernelName, groups: Tensor) -> Tensor:
        flat = codes.detach().reshape(-1).float()
        nearest = torch.round(flat)
        rest = flat - nearest
        reach = math.ceil(width)
        places = nearest.to(torch.int64) - (int(nearest.min()) - reach)
        span = int(places.max()) + reach + 1
        places += span * groups.reshape(-1)
        masses = torch.zeros((int(groups.max()) + 1) * span, device=flat.device, dtype=torch.float64)
        for offset in range(-reach, reach + 1):
            upper, lower = (_distribution((offset + end - rest) / width, kernel) for end in (0.5, -0.5))
            masses.index_add_(0, places + offset, (upper - lower).double())
        in_groups = masses.reshape(-1, span).sum(1).clamp(min=1e-12).repeat_interleave(span)
        lengths = -torch.log2(masses.clamp(min=1e-12) / in_groups)
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
        return gradients[0] * found.reshape(shape).to(dtype), None, None, None


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
