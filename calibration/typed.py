"""Samples in the types that a network takes: the same numbers in another type, or an error, never others in silence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from ..errors import CompressError
from .data import DataParts, Part, Sample

if TYPE_CHECKING:
    from torch import Tensor

SCALE_IT = "scale it first, for instance (x/255 - mean)/std"


def in_type(x: Tensor, wanted: torch.dtype, what: str) -> Tensor:
    """`x` as `wanted`. Floats are rounded to the nearest of a narrower float type; all else must come back the same.

    what: how the message calls x ("input 'image' of sample 3"). CompressError for a value that the type cannot hold.
    """
    if x.dtype == wanted:
        return x
    changed = x.to(wanted)
    if x.is_floating_point() and wanted.is_floating_point:
        lost = x.isfinite() & ~changed.isfinite()
    else:
        lost = ~_holds(x, wanted) | (changed.to(x.dtype) != x)
    if not bool(lost.any()):
        return changed
    value = x[lost].flatten()[0].item()
    raise CompressError(
        f"{what} is {type_name(x.dtype)} and holds {value:g}, and the network takes {type_name(wanted)}, which has no"
        f" {value:g}: give the data as {type_name(wanted)}, as it goes into the network in use"
    )


def _holds(x: Tensor, wanted: torch.dtype) -> Tensor:
    """Which values lie in the range of `wanted`, where a conversion is defined."""
    if wanted == torch.bool:
        return (x == 0) | (x == 1)
    if wanted.is_floating_point:
        return torch.ones_like(x, dtype=torch.bool)
    info = torch.iinfo(wanted)
    numbers = x.double() if x.is_floating_point() or x.dtype == torch.bool else x
    return (numbers >= info.min) & (numbers <= info.max)


def as_networks_take_it(x: Tensor, what: str) -> Tensor:
    """`x` for a network that declares no types: float32, or int64 for indices; CompressError for bytes and booleans."""
    if x.is_floating_point():
        return x.float()
    if x.dtype in (torch.int32, torch.int64):
        return x.long()
    raise CompressError(
        f"{what} is {type_name(x.dtype)}; a network takes float32 (or int64 indices): {SCALE_IT} (an ONNX file may"
        " declare other types, and is given them)"
    )


def type_name(dtype: torch.dtype) -> str:
    """`uint8`, `float32`, as numpy has them."""
    return str(dtype).removeprefix("torch.")


@dataclass(frozen=True)
class TypedSamples(Sequence[Sample]):
    """Samples whose inputs have these types, converted when asked for. part: of the data, for the message."""

    samples: Sequence[Sample]
    types: tuple[torch.dtype, ...]
    names: tuple[str, ...]
    part: str

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:  # type: ignore[override]
        if not 0 <= index < len(self):
            raise IndexError(index)
        inputs, label = self.samples[index]
        what = f"sample {index} of the {self.part} part"
        typed = (
            in_type(x, wanted, f"data: input {name!r} of {what}")
            for x, wanted, name in zip(inputs, self.types, self.names, strict=True)
        )
        return tuple(typed), label


def part_in_types(part: Part, types: Sequence[torch.dtype], names: Sequence[str]) -> Part:
    """The part with its inputs in these types, in the order of the network's inputs.

    Where a value could be lost all samples are tried now, so that no work is done for data that do not fit.
    """
    if not len(part):
        return part
    found = [x.dtype for x in part.samples[0][0]]
    if found == list(types):
        return part
    typed = TypedSamples(part.samples, tuple(types), tuple(names), part.name)
    if any(not _surely_fits(old, new) for old, new in zip(found, types, strict=True)):
        for index in range(len(typed)):
            typed[index]
    return Part(part.name, typed)


def _surely_fits(old: torch.dtype, new: torch.dtype) -> bool:
    return (
        old == new or torch.promote_types(old, new) == new or (old.is_floating_point and new == torch.float32)
    )


def data_in_types(data: DataParts, types: Sequence[torch.dtype], names: Sequence[str]) -> DataParts:
    """All parts, as `part_in_types`."""

    def typed(part: Part) -> Part:
        return part_in_types(part, types, names)

    return replace(
        data,
        train=typed(data.train),
        calibration=typed(data.calibration),
        validation=typed(data.validation),
        test=None if data.test is None else typed(data.test),
    )
