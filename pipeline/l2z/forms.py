"""The form in which a tensor takes the fewest bytes: planes of its bytes, palettes, or a ladder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...model import CodedTensor
from ...trellis import NONE, ODD, ODD_AND_ZERO
from .contexts import Plan, histogram, plan
from .kernels import CENTRE, Bytes
from .ladder import Rungs, rungs_for, symbols_of
from .planes import PALETTE, Palette, Scales, columns_of, palette_of, palette_of_coded, scales_of, split
from .prediction import taps_of

WORTHWHILE = 0.995
"""A plane is coded where it takes less than this share of its bytes, and stored as it is elsewhere."""


@dataclass(frozen=True)
class PlannedPlane:
    """The symbols of a plane, (n,), how they are coded, None for as they are, and which one is the middle."""

    symbols: Bytes
    plan: Plan | None
    centre: int = 0

    @property
    def size(self) -> float:
        """Bytes by estimate."""
        return len(self.symbols) if self.plan is None else self.plan.size


@dataclass(frozen=True)
class Form:
    """How a tensor is stored: its planes, and the values and factors that these are about."""

    planes: list[PlannedPlane]
    palette: Palette | None = None
    rows: bool = False
    rungs: Rungs | None = None
    trellis: int = NONE
    scales: Scales | None = None

    @property
    def size(self) -> float:
        """Bytes by estimate."""
        values = 0 if self.palette is None else len(self.palette.values) + len(self.palette.counts)
        return sum(plane.size for plane in self.planes) + values


def smallest_form(content: Bytes, tensor: Tensor) -> Form:
    """The smallest form for a tensor and its bytes: planes, a palette, or a palette for each row."""
    return min(_forms(content, tensor), key=lambda form: form.size)


def _forms(content: Bytes, tensor: Tensor) -> Iterator[Form]:
    columns, taps = columns_of(tuple(tensor.shape)), taps_of(tuple(tensor.shape))
    planes = split(content, tensor.dtype)
    yield Form([planned(plane, columns, taps if len(planes) == 1 else 0) for plane in planes])
    for by_rows in (False, True):
        rows = tensor.shape[0] if by_rows and tensor.dim() > 1 else 1
        if not len(content) or (by_rows and rows == 1):
            continue
        found = palette_of(content, tensor.dtype, rows)
        if found is not None and len(found.values) < len(content):
            yield Form([planned(found.indices, columns, taps)], found, by_rows)


def coded_form(known: CodedTensor) -> Form | None:
    """The form of a tensor of which it is known that it has few values, None where a file cannot hold it so."""
    if not _storable(known):
        return None
    scales = scales_of(known)
    if scales is not None and len(scales.values) > PALETTE:
        return None
    factors = [] if scales is None else [planned(scales.places, len(scales.places))]
    columns, taps = columns_of(tuple(known.indices.shape)), taps_of(tuple(known.indices.shape))
    rungs = rungs_for(known.values.numpy())
    if rungs is None:
        palette = palette_of_coded(known)
        return Form([planned(palette.indices, columns, taps), *factors], palette, scales=scales)
    symbols = symbols_of(known)
    plane = PlannedPlane(symbols, _worthwhile(plan(symbols, columns, taps, known.trellis), symbols), CENTRE)
    return Form([plane, *factors], rungs=rungs, trellis=known.trellis, scales=scales)


def planned(symbols: Bytes, columns: int, taps: int = 0) -> PlannedPlane:
    """A plane in rows of `columns` and kernels of `taps`, about its most frequent symbol."""
    if not len(symbols):
        return PlannedPlane(symbols, None)
    centre = int(histogram(symbols).argmax())
    turned = symbols - np.uint8(centre) + np.uint8(CENTRE)
    return PlannedPlane(symbols, _worthwhile(plan(turned, columns, taps), symbols), centre)


def _storable(known: CodedTensor) -> bool:
    floats = [known.values, *([] if known.scale is None else [known.scale])]
    axis = known.axis is None or 0 <= known.axis < known.indices.dim()
    return (
        all(each.dtype == torch.float32 for each in floats)
        and 0 < len(known.values) <= PALETTE
        and known.indices.numel() > 0
        and axis
        and known.trellis in (NONE, ODD, ODD_AND_ZERO)
    )


def _worthwhile(found: Plan | None, symbols: Bytes) -> Plan | None:
    return found if found is not None and found.size < WORTHWHILE * len(symbols) else None
