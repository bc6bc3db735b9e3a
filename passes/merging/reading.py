"""Which tokens a network reads of what its last block returns."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .encoder import Encoder, several_of

SEED = 0


def tokens_read(network: nn.Module, inputs: tuple[Tensor, ...], encoder: Encoder) -> list[int]:
    """The places, from 0, of tokens after the last block that an output depends on, in a network with TokenBlocks.

    By gradients: what no output is moved by is not read. All of them, where an output has no gradients to tell by. One
    token's row does not reach another behind the last block but by being read.
    """
    returned: list[Tensor] = []

    def keep(_: nn.Module, __: object, features: Tensor) -> Tensor:
        returned.append(features.detach().requires_grad_())
        return returned[-1]

    handle = network.get_submodule(encoder.place).register_forward_hook(keep)
    try:
        with torch.enable_grad():
            outputs = network(*inputs)
    finally:
        handle.remove()
    draw = torch.Generator().manual_seed(SEED)
    several, [features] = several_of(outputs), returned
    if not all(y.requires_grad for y in several):
        return list(range(features.shape[1]))
    total = torch.stack([(y * torch.rand(y.shape, generator=draw)).sum() for y in several]).sum()
    (gradient,) = torch.autograd.grad(total, features)
    moved = gradient.abs().sum((0, 2)) > 0
    return [int(place) for place in moved.nonzero()]
