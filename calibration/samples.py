"""Where samples are read from: arrays and map-style datasets; one at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import CompressError
from .data import Sample
from .named import call


@dataclass(frozen=True)
class ArraySamples(Sequence[Sample]):
    """Inputs, each (n, ...), and labels (n, ...), held in memory by the source."""

    inputs: tuple[Tensor, ...]
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Sample:  # type: ignore[override]
        if not 0 <= index < len(self):
            raise IndexError(index)
        return tuple(x[index] for x in self.inputs), self.labels[index]


@dataclass(frozen=True)
class MapSamples(Sequence[Sample]):
    """A map-style dataset: `dataset[i]` is (x, y), x an array or a tuple of arrays."""

    dataset: Any
    what: str

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:  # type: ignore[override]
        if not 0 <= index < len(self):
            raise IndexError(index)
        item = call(self.dataset.__getitem__, f"{self.what}: reading sample {index}", index)
        if not isinstance(item, (tuple, list)) or len(item) != 2:
            raise CompressError(f"{self.what}: sample {index} is not a pair (x, y) but {type(item).__name__}")
        x, y = item
        columns = x if isinstance(x, (tuple, list)) else (x,)
        return tuple(input_tensor(c, f"{self.what}: x of sample {index}") for c in columns), label_tensor(
            y, f"{self.what}: y of sample {index}"
        )


def array_samples(x: Any, y: Any, what: str) -> ArraySamples:
    """Pair arrays or tensors: x (n, ...) or a tuple of such for several inputs, y (n, ...)."""
    columns = x if isinstance(x, (tuple, list)) else (x,)
    inputs = tuple(input_tensor(c, f"{what}: x") for c in columns)
    labels = label_tensor(y, f"{what}: y")
    for column in inputs:
        if column.ndim == 0 or labels.ndim == 0 or len(column) != len(labels):
            raise CompressError(
                f"{what}: x has shape {tuple(column.shape)} and y {tuple(labels.shape)}; both must start"
                f" with the same number of samples"
            )
    return ArraySamples(inputs, labels)


def input_tensor(value: Any, what: str) -> Tensor:
    """An input as the source has it; floats are float32 (float16 too), what else a network may declare is kept."""
    tensor = _tensor(value, what)
    if tensor.is_floating_point():
        return tensor.float()
    if tensor.dtype in _WHOLE:
        return tensor
    raise CompressError(f"{what} is {_dtype_name(tensor)}; inputs are floats, whole numbers or booleans")


_WHOLE = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def label_tensor(value: Any, what: str) -> Tensor:
    """A label as metrics take it: int64 for whole numbers, float32 otherwise."""
    tensor = _tensor(value, what)
    if tensor.is_complex():
        raise CompressError(f"{what} is {_dtype_name(tensor)}; labels are numbers")
    return tensor.float() if tensor.is_floating_point() else tensor.long()


def _tensor(value: Any, what: str) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach().cpu()
    try:
        array = np.asarray(value)
        if array.dtype == object:
            raise TypeError(f"it is a {type(value).__name__}, not an array of numbers")
        return torch.as_tensor(array)
    except (TypeError, ValueError, RuntimeError) as error:
        raise CompressError(f"{what}: {error}; give a numpy array or a torch tensor") from error


def _dtype_name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
