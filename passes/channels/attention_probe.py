"""What depends on what in an attention: told by changing its weights, not by its names."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .runs import Call, first_line
from .surgery import caches_of, copied

_NEAR = {torch.float64: 1e-9, torch.float32: 1e-4}
"""Of the largest output: what the order of sums is worth, and more; what depends on a changed weight is off by 1e-2."""
_BASE = frozenset(vars(nn.Module()))

Chosen = Mapping[str, Mapping[int, Tensor]]
"""Tensor name -> dimension -> (size,) bool, the indices that are meant."""
Masks = Mapping[str, Tensor]
"""Layer name -> (channels,), what its channels are multiplied by."""


class NotRunError(Exception):
    """Why a module does not run, in words."""


class Probe:
    """A copy of a module, of random weights, that runs on random inputs of the shapes of a call.

    Trained weights may be zero, or so large that every softmax is a maximum; example inputs may be all alike: then
    what a weight decides would not be seen. Binary64, or float32 where forward() makes tensors of its own.

    name: of the module in its network; all names given are those of the network. widths: of the inputs that are made
    random. NotRunError when the copy does not run.
    """

    def __init__(self, name: str, module: nn.Module, call: Call, widths: set[int]) -> None:
        self.generator = torch.Generator().manual_seed(0)
        self._name, self._call, self._widths = name, call, widths
        try:
            root = within(name, copied(module))
        except Exception as error:  # of tensors that cannot be copied, in whatever way they say so
            raise NotRunError(first_line(error)) from error
        with torch.no_grad():
            for parameter in root.parameters():
                self._randomize(parameter)
        try:
            self.root, self.dtype = root.double(), torch.float64
            self._inputs = self._taken()
            self.whole = self.run(self.root)
        except NotRunError:
            self.root, self.dtype = root.float(), torch.float32
            self._inputs = self._taken()
            self.whole = self.run(self.root)

    @torch.no_grad()
    def run(self, root: nn.Module, reads: Masks | None = None, makes: Masks | None = None) -> Tensor:
        """The first tensor of numbers that the module returns; masked: its layers' inputs (reads), outputs (makes)."""
        given, named = self._inputs
        for cache in caches_of(root):
            cache.clear()
        with masked(root, reads or {}, makes or {}):
            try:
                returned = root.get_submodule(self._name)(*given, **named)
            except Exception as error:  # forward() raises whatever its author's code raises
                raise NotRunError(first_line(error)) from error
        found = next(
            (tensor for tensor in _tensors(returned) if tensor.is_floating_point() and tensor.numel()), None
        )
        if found is None or not found.isfinite().all():
            raise NotRunError("it returns no tensor of finite numbers")
        return found

    def near(self, one: Tensor, other: Tensor) -> bool:
        """Whether two outputs are equal but for the order of sums."""
        most = float((one - other).abs().max()) if one.shape == other.shape else float("inf")
        return most <= _NEAR[self.dtype] * float(other.abs().max())

    def changes(self, chosen: Chosen, reads: Masks | None = None, makes: Masks | None = None) -> bool:
        """Whether the output, of masked layers, depends on the chosen indices of tensors."""
        before = self.run(self.root, reads, makes) if reads or makes else self.whole
        with self._changed(chosen):
            return not self.near(self.run(self.root, reads, makes), before)

    def subset(self, size: int) -> Tensor:
        """About half of `size` choices at random, at least one and never all, (size,) bool."""
        order = torch.randperm(size, generator=self.generator)
        return torch.isin(torch.arange(size), order[: max(1, size // 2)])

    @contextmanager
    def _changed(self, chosen: Chosen) -> Iterator[None]:
        tensors = tensors_of(self.root)
        before = {name: tensors[name].detach().clone() for name in chosen}
        with torch.no_grad():
            for name, dims in chosen.items():
                for dim, indices in dims.items():
                    rows = indices.nonzero().flatten().to(tensors[name].device)
                    tensors[name].index_add_(dim, rows, self._noise(tensors[name], dim, len(rows)))
            try:
                yield
            finally:
                for name, value in before.items():
                    tensors[name].copy_(value)

    def _noise(self, tensor: Tensor, dim: int, count: int) -> Tensor:
        """For so many indices of a dimension; of a size that changes outputs, and makes no softmax a maximum."""
        shape = [*tensor.shape[:dim], count, *tensor.shape[dim + 1 :]]
        noise = torch.randn(shape, generator=self.generator)
        if tensor.dim() < 2:
            noise.abs_()  # a variance must stay positive
        return (noise / math.sqrt(tensor[0].numel())).to(tensor)

    def _randomize(self, parameter: nn.Parameter) -> None:
        if not parameter.is_floating_point():
            return
        noise = torch.randn(parameter.shape, generator=self.generator).to(parameter)
        if parameter.dim() > 1:
            parameter.copy_(noise / math.sqrt(parameter[0].numel()))  # outputs as large as inputs
        else:
            parameter.add_(noise * 0.5)  # norms keep a scale around 1

    def _taken(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        generator = torch.Generator().manual_seed(1)

        def taken(argument: Any) -> Any:
            if isinstance(argument, (list, tuple)) and type(argument) in (list, tuple):
                return type(argument)(taken(x) for x in argument)
            if not isinstance(argument, Tensor) or not argument.is_floating_point():
                return argument
            if self._widths.isdisjoint(argument.shape):
                return argument.to(self.dtype)
            return torch.randn(argument.shape, generator=generator).to(argument.device, self.dtype)

        call = self._call
        return tuple(map(taken, call.given)), {name: taken(value) for name, value in call.named.items()}


@contextmanager
def masked(root: nn.Module, reads: Masks, makes: Masks) -> Iterator[None]:
    """Multiply the channels of what layers read, and of what they make."""

    def closed(layer: nn.Module, channels: Tensor, mask: Tensor) -> Tensor:
        image = isinstance(layer, nn.Conv2d)
        return channels * (mask[:, None, None] if image else mask).to(channels)

    def reading(mask: Tensor) -> Any:
        return lambda layer, given: (closed(layer, given[0], mask), *given[1:])

    def making(mask: Tensor) -> Any:
        return lambda layer, _given, made: closed(layer, made, mask)

    hooks = [
        root.get_submodule(name).register_forward_pre_hook(reading(mask)) for name, mask in reads.items()
    ]
    hooks += [root.get_submodule(name).register_forward_hook(making(mask)) for name, mask in makes.items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Its parameters and buffers of floating point, by name."""
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}


def structure_of(module: nn.Module, call: Call) -> str:
    """The same for two modules that compute alike but for their weights, as far as that can be told."""
    plain = (int, float, bool, str, type(None), torch.Size, torch.dtype)

    def told(value: Any) -> str:
        if isinstance(value, Tensor):
            return f"{tuple(value.shape)} {value.dtype}"
        if type(value) in (tuple, list):
            return str([told(one) for one in value])
        return repr(value) if isinstance(value, plain) else str(id(value))

    caches = {id(cache) for cache in caches_of(module)}

    def attributes(layer: nn.Module) -> dict[str, str]:
        own = {key: value for key, value in vars(layer).items() if key not in _BASE}
        return {key: told(value) for key, value in own.items() if id(value) not in caches}

    layers = [(name, id(type(layer)), attributes(layer)) for name, layer in module.named_modules()]
    tensors = [(name, told(tensor)) for name, tensor in module.state_dict(keep_vars=True).items()]
    return str((layers, tensors, told(call.given), {name: told(value) for name, value in call.named.items()}))


def within(name: str, module: nn.Module) -> nn.Module:
    """A network that has nothing but the module `name`."""
    for part in reversed(name.split(".") if name else []):
        outer = nn.Module()
        outer.add_module(part, module)
        module = outer
    return module


def _tensors(returned: Any) -> Iterator[Tensor]:
    if isinstance(returned, Tensor):
        yield returned
    elif isinstance(returned, Mapping):
        yield from _tensors(list(returned.values()))
    elif isinstance(returned, (list, tuple)):
        for one in returned:
            yield from _tensors(one)
