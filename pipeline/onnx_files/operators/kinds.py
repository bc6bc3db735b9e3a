"""What one converted operator is: what its node says, how it is built, and the module that it becomes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    import onnx


Function = Callable[..., "Tensor | tuple[Tensor, ...]"]
"""(batch, *tensors) -> what the operator returns."""


@dataclass(frozen=True)
class Sizes:
    """Whole numbers, some of which are to be multiplied by the batch."""

    values: tuple[int, ...]
    by_batch: tuple[bool, ...] = ()

    def at(self, batch: int) -> list[int]:
        """The numbers for a batch."""
        if not self.by_batch:
            return list(self.values)
        return [v * batch if grows else v for v, grows in zip(self.values, self.by_batch, strict=True)]


@dataclass(frozen=True)
class Given:
    """What a node says of itself: attributes, and its inputs that are known."""

    attributes: Mapping[str, Any]
    constants: Mapping[int, np.ndarray[Any, Any]]
    outputs: int

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute."""
        return self.attributes.get(name, default)

    def sizes(self, index: int, attribute: str = "") -> Sizes | None:
        """The whole numbers of an input, or of the attribute that older opsets have instead."""
        if f"sizes_{index}" in self.attributes:
            grows = tuple(bool(v) for v in self.attributes[f"by_batch_{index}"])
            return Sizes(tuple(self.attributes[f"sizes_{index}"]), grows)
        if index in self.constants:
            return Sizes(tuple(int(v) for v in self.constants[index].reshape(-1)))
        found = self.attributes.get(attribute)
        return None if found is None else Sizes(tuple(int(v) for v in found))

    def tensor(self, index: int) -> Tensor | None:
        """A constant input."""
        found = self.constants.get(index)
        return None if found is None else torch.from_numpy(found.copy())


@dataclass(frozen=True)
class Kind:
    """How one operator is built. known: which inputs must be constant, from an index on or by index."""

    build: Callable[[Given], Function | nn.Module]
    known: frozenset[int] = frozenset()
    known_from: int = 99
    takes: Callable[[onnx.NodeProto, set[str]], bool] = lambda node, stored: True

    def must_know(self, index: int) -> bool:
        """Whether the input at `index` is fixed in the module."""
        return index in self.known or index >= self.known_from


class Operator(nn.Module):
    """One ONNX operator as a function; `by_batch`: its last input is only asked for its batch."""

    def __init__(self, function: Function, by_batch: bool) -> None:
        super().__init__()
        self.function, self.by_batch = function, by_batch

    def forward(self, *tensors: Tensor) -> Any:
        """The operator's outputs."""
        if not self.by_batch:
            return self.function(1, *tensors)
        return self.function(tensors[-1].shape[0], *tensors[:-1])
