"""A network whose channels, heads and blocks have gates: closed, they are gone to float error, and all is as it was.

A gate stands at the input of every layer that reads its channels. There a closed channel is worth nothing whatever lies
before it: a BatchNorm or a depthwise convolution that turns zeros into its bias, squeeze-excitation, a concatenation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .dissected import Dissected
from .units import Gates

Handle = torch.utils.hooks.RemovableHandle


class Fixed(nn.Module):
    """A gate that is what it is."""

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.register_buffer("open", values)
        self.open: Tensor

    def forward(self) -> Tensor:
        """How open each choice is, (size,)."""
        return self.open


class Gated(nn.Module):
    """A network with gates, run as the network itself is.

    network: the module that `dissected` is of, or one of the same names and shapes; it is not copied. gates: by the
    name of the unit, modules that give how open its choices are, (size,); units without one stay open.
    """

    def __init__(self, network: nn.Module, dissected: Dissected, gates: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.network = network
        self.units = tuple(gates)  # a module's name may hold no dot, as theirs do
        self.gates = nn.ModuleList(gates.values())
        self._sides = dissected.sides

    def values(self) -> dict[str, Tensor]:
        """How open each unit's choices are, by its name."""
        return {name: gate() for name, gate in zip(self.units, self.gates, strict=True)}

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """The outputs of the network without what is closed."""
        handles = self._hooked(self.values())
        try:
            return self.network(*inputs, **named)
        finally:
            for handle in handles:
                handle.remove()

    def _hooked(self, gates: Gates) -> list[Handle]:
        sides, layer = self._sides, self.network.get_submodule
        handles = []
        for name, side in sides.reads.items():
            if side.owned_by(gates):
                handles.append(layer(name).register_forward_pre_hook(_masking(side.mask(gates))))
        for name, side in sides.makes.items():
            if side.owned_by(gates):
                handles.append(layer(name).register_forward_hook(_masking_output(side.mask(gates))))
        for name, side in sides.norms.items():
            if side.owned_by(gates):
                handles.append(layer(name).register_forward_hook(_renorming(side.mask(gates))))
        for name in sides.blocks:
            if name in gates:
                handles.append(layer(name).register_forward_hook(_passing(gates[name]), with_kwargs=True))
        return handles


def fixed(network: nn.Module, dissected: Dissected, gates: Gates) -> Gated:
    """A network whose gates are what they are."""
    return Gated(network, dissected, {name: Fixed(values) for name, values in gates.items()})


def _masking(mask: Tensor) -> Callable[..., Any]:
    def hook(layer: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        return (given[0] * _along(mask, given[0], layer), *given[1:])

    return hook


def _masking_output(mask: Tensor) -> Callable[..., Tensor]:
    def hook(layer: nn.Module, given: object, returned: Tensor) -> Tensor:
        return returned * _along(mask, returned, layer)

    return hook


def _passing(gate: Tensor) -> Callable[..., Tensor]:
    """A block as its gate says: closed, the tensor that it was given."""

    def hook(block: nn.Module, given: tuple[Any, ...], named: dict[str, Any], returned: Tensor) -> Tensor:
        taken = next(x for x in (*given, *named.values()) if isinstance(x, Tensor))
        return returned * gate + taken * (1 - gate)

    return hook


def _renorming(mask: Tensor) -> Callable[..., Tensor]:
    """A norm whose mean and variance are those of the open channels alone; with none open there is nothing to norm."""

    def hook(norm: nn.Module, given: tuple[Any, ...], returned: Tensor) -> Tensor:
        x: Tensor = given[0]
        if isinstance(norm, nn.GroupNorm):
            return _group_norm(norm, x, mask)
        return _layer_norm(norm, x, mask)

    return hook


def _layer_norm(norm: Any, x: Tensor, mask: Tensor) -> Tensor:
    """LayerNorm and RMSNorm over the channels, wherever these stand."""
    dim = channel_dim(norm, x)
    m = _along(mask, x, norm)
    count = mask.sum().clamp(min=1)
    mean = (x * m).sum(dim, keepdim=True) / count if subtracts_mean(norm) else 0.0
    centred = x - mean
    variance = (centred.square() * m).sum(dim, keepdim=True) / count
    eps = norm.eps if norm.eps is not None else torch.finfo(x.dtype).eps
    return _scaled(norm, centred * torch.rsqrt(variance + eps), dim)


def _group_norm(norm: nn.GroupNorm, x: Tensor, mask: Tensor) -> Tensor:
    grouped = x.reshape(len(x), norm.num_groups, -1, *x.shape[2:])
    m = mask.reshape(1, norm.num_groups, -1, *[1] * (x.dim() - 2))
    over = list(range(2, grouped.dim()))
    count = m.sum(over, keepdim=True).clamp(min=1) * grouped[0, 0, 0].numel()
    centred = grouped - (grouped * m).sum(over, keepdim=True) / count
    variance = (centred.square() * m).sum(over, keepdim=True) / count
    return _scaled(norm, (centred * torch.rsqrt(variance + norm.eps)).reshape(x.shape), 1)


def _scaled(norm: Any, x: Tensor, dim: int) -> Tensor:
    shape = [1] * x.dim()
    shape[dim] = -1
    if getattr(norm, "weight", None) is not None:
        x = x * norm.weight.reshape(shape)
    if getattr(norm, "bias", None) is not None:
        x = x + norm.bias.reshape(shape)
    return x


def subtracts_mean(norm: nn.Module) -> bool:
    """Whether a norm over channels is a LayerNorm, and not an RMSNorm."""
    return "rms" not in type(norm).__name__.lower()


def channel_dim(layer: nn.Module, x: Tensor) -> int:
    """Which dimension of what a layer reads or makes holds its channels."""
    last = isinstance(layer, nn.Linear) or (
        not isinstance(layer, nn.modules.conv._ConvNd) and "2d" not in type(layer).__name__.lower()
    )
    return x.dim() - 1 if last else 1


def _along(mask: Tensor, x: Tensor, layer: nn.Module) -> Tensor:
    shape = [1] * x.dim()
    shape[channel_dim(layer, x)] = -1
    return mask.to(x.dtype).reshape(shape)
