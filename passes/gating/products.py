"""The products with layers' weights that a network's forward() makes, as they are made.

They are seen where `linear` and the convolutions are called, so that what a layer's own forward() does before, such
as padding, is behind it, and what it does to its weight first, such as standardizing it, is no product with the weight.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from ..graph.patches import padded, patches

_CONVOLUTIONS = (F.conv1d, F.conv2d, F.conv3d)
_ARGUMENTS = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_DEFAULTS = {"bias": None, "stride": (1,), "padding": (0,), "dilation": (1,), "groups": 1}


@dataclass(frozen=True)
class Product:
    """What one call multiplies.

    name: of the layer whose weight it is. inputs: (samples, channels, *sizes) of a convolution, (..., inputs) else.
    bias: what is added, whoever's it is. settings: stride, padding, dilation and groups of a convolution; {} else.
    """

    name: str
    inputs: Tensor
    weight: Tensor
    bias: Tensor | None
    settings: Mapping[str, Any]

    @property
    def batched(self) -> bool:
        """Whether the inputs have a dimension for the samples."""
        return self.inputs.dim() == self.weight.dim() if self.settings else self.inputs.dim() > 1

    @property
    def channel_axis(self) -> int:
        """The axis of the outputs that holds their channels."""
        return 1 if self.settings else -1

    def rows(self, sampled: Sampled) -> Tensor:
        """What the rows of the weight are multiplied with, (samples, positions, inputs of a row)."""
        if not self.settings:
            return sampled.channels_last(self.inputs)
        kernel = tuple(self.weight.shape[2:])
        stride, dilation = self.settings["stride"], self.settings["dilation"]
        around = padded(self.inputs, kernel, self.settings["padding"], dilation)
        return sampled.maps(patches(around, kernel, stride, dilation), len(kernel)).flatten(1, -2).mT

    def made(self, outputs: Tensor, sampled: Sampled) -> Tensor:
        """The layer's outputs at these places, (samples, positions, channels)."""
        if not self.settings:
            return sampled.channels_last(outputs)
        return sampled.maps(outputs, self.weight.dim() - 2).mT


@dataclass(frozen=True)
class Sampled:
    """Where a layer's outputs are looked at.

    axis: of inputs and outputs, the one along which the samples lie, alone or each in several parts.
    positions: of the other axes but the channels', flattened, the same of each sample; ascending. weights: how much
    each of them counts, so that weighted sums over them stand for such sums over all.
    """

    axis: int
    positions: Tensor
    weights: Tensor

    @classmethod
    def drawn(cls, axis: int, matters: Tensor, wanted: float) -> Sampled:
        """`wanted` of a sample's positions, rounded up, as far as there are; the same ones each time.

        matters: (positions,), positive: the sum of weights times anything over what is drawn estimates the sum of these
        times the same over all. Positions are drawn the rather the more they matter, by systematic sampling (Madow
        1949) in random order: even distances would meet the rows of a map, and see some of its columns only.
        """
        draws = torch.Generator().manual_seed(0)
        chances = _chances(matters.double(), min(math.ceil(wanted), len(matters)))
        order = torch.randperm(len(matters), generator=draws)
        steps = (chances[order].cumsum(0) + torch.rand(1, generator=draws)).floor()
        chosen = order[steps.diff(prepend=steps.new_zeros(1)) > 0].sort().values
        return cls(axis, chosen, (matters / chances)[chosen].to(matters))

    def channels_last(self, tensor: Tensor) -> Tensor:
        """A tensor (..., channels) at these places: (samples, positions, channels)."""
        if tensor.dim() == 2:
            return tensor[:, None].index_select(1, self.positions)
        return tensor.movedim(self.axis, 0).flatten(1, -2).index_select(1, self.positions)

    def maps(self, tensor: Tensor, rank: int) -> Tensor:
        """A tensor (samples, ..., *sizes) of so many sizes at these places: (samples, ..., positions)."""
        places: list[Any] = list(torch.unravel_index(self.positions, tensor.shape[-rank:]))
        return tensor[(..., *places)]


def _chances(matters: Tensor, wanted: int) -> Tensor:
    """How likely each position is drawn: in proportion to what it matters, but for those that are drawn for sure."""
    sure = torch.zeros(len(matters), dtype=torch.bool)
    while True:
        rest = matters.masked_fill(sure, 0.0)
        share = (wanted - int(sure.sum())) / rest.sum() if not bool(sure.all()) else 0.0
        chances = torch.where(sure, 1.0, rest * share)
        if not bool((chances > 1).any()):
            return chances
        sure |= chances >= 1


def sample_axis(one: Product, many: Product, samples: int) -> int | None:
    """The axis of the inputs that is so many times as long as with one sample, as there are samples; None of none."""
    shapes = one.inputs.shape, many.inputs.shape
    axes = range(1) if many.settings else range(len(shapes[0]) - 1)
    return next((axis for axis in axes if shapes[1][axis] == samples * shapes[0][axis]), None)


class Products(TorchFunctionMode):
    """While it is entered, `before` sees each product with a weight of the network, and `after` its outputs, too.

    The network goes on with what `after` returns in their place, if anything.
    """

    def __init__(
        self,
        network: nn.Module,
        before: Callable[[Product], None] = lambda product: None,
        after: Callable[[Product, Tensor], Tensor | None] = lambda product, outputs: None,
    ) -> None:
        super().__init__()
        self._names = weight_names(network)
        self._before, self._after = before, after

    def __torch_function__(
        self,
        func: Any,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Call `func`, and show what it multiplies."""
        kwargs = kwargs or {}
        product = self._product(func, args, kwargs)
        if product is not None:
            self._before(product)
        result = func(*args, **kwargs)
        replaced = None if product is None else self._after(product, result)
        return result if replaced is None else replaced

    def _product(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Product | None:
        if func is not F.linear and func not in _CONVOLUTIONS:
            return None
        given = _DEFAULTS | dict(zip(_ARGUMENTS, args, strict=False)) | kwargs
        names = self._names.get(id(given["weight"]), ())
        if len(names) != 1:
            return None
        settings = {} if func is F.linear else {name: given[name] for name in _DEFAULTS if name != "bias"}
        several = {
            name: (x,) if isinstance(x, int) and name != "groups" else x for name, x in settings.items()
        }
        return Product(names[0], given["input"], given["weight"], given["bias"], several)


def weight_names(network: nn.Module) -> dict[int, tuple[str, ...]]:
    """The layers that have a weight, by the id of the weight: several where they share it."""
    names: dict[int, tuple[str, ...]] = {}
    for name, layer in network.named_modules():
        weight = layer._parameters.get("weight")
        if weight is not None:
            names[id(weight)] = (*names.get(id(weight), ()), name)
    return names


@dataclass
class Call:
    """How a layer is called on one batch.

    product: of the first call. norm: the BatchNorm that alone reads what the layer puts out, None where there is none.
    """

    product: Product
    times: int = 1
    norm: str | None = None


def calls_in_order(network: nn.Module, inputs: tuple[Tensor, ...]) -> dict[str, Call]:
    """The layers whose weights `network` multiplies with on `inputs`, in the order of their first calls."""
    survey = _Survey(network)
    with torch.no_grad(), survey:
        network(*inputs)
    return survey.told()


class _Survey(Products):
    """Notes every product, and what reads its outputs."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network, after=self._note)
        self._norms = {
            id(layer.running_mean): name
            for name, layer in network.named_modules()
            if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.running_mean is not None
        }
        self._calls: dict[str, Call] = {}
        self._outputs: dict[
            int, tuple[str, Tensor]
        ] = {}  # holds the tensor too: a freed one's id is used again
        self._readers: dict[str, list[str | None]] = {}

    def __torch_function__(
        self,
        func: Any,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Call `func`, and note whose outputs it reads."""
        result = super().__torch_function__(func, types, args, kwargs)
        if any(isinstance(x, Tensor) for x in tree_leaves(result)):  # not a shape, or another fact
            norm = self._norms.get(id(args[1])) if func is F.batch_norm else None
            for value in tree_leaves((args, kwargs)):
                if id(value) in self._outputs and self._outputs[id(value)][1] is not result:
                    self._readers.setdefault(self._outputs[id(value)][0], []).append(norm)
        return result

    def _note(self, product: Product, outputs: Tensor) -> None:
        if product.name in self._calls:
            self._calls[product.name].times += 1
        else:
            self._calls[product.name] = Call(product)
            self._outputs[id(outputs)] = product.name, outputs

    def told(self) -> dict[str, Call]:
        """The calls, with the norm of each layer."""
        read_once = Counter(norm for readers in self._readers.values() for norm in readers)
        for name, call in self._calls.items():
            match self._readers.get(name):
                case [str(norm)] if read_once[norm] == 1:
                    call.norm = norm
        return self._calls
