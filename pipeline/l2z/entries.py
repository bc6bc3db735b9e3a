"""What a `.l2z` file says of its tensors before the first of their bytes: its header, an entry for each tensor."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from ...trellis import NONE, ODD_AND_ZERO
from .kernels import CONTEXTS
from .ladder import MOST_RUNGS
from .planes import DTYPES, PALETTE
from .prediction import MOST_TAPS, coefficients_of
from .tables import MOST_TABLE

MOST_GRAPH = (2 << 30) - 1
MOST_TABLES = 8192
"""A reader keeps 2 KiB for each."""
MOST_SPAN = 2**62
"""Bytes of a tensor, sizes of 0 counted as 1: torch and numpy count in 63 bits."""

Natural = Annotated[int, Field(ge=0, lt=2**62)]


class Plane(BaseModel):
    """A plane of a tensor: into how many groups its contexts fall, 0 for one stored as it is, the symbol that symbols
    are turned to have in the middle, and of how many taps the kernels are in which it is predicted, 0 for none."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    groups: Annotated[int, Field(ge=0, le=CONTEXTS)]
    centre: Annotated[int, Field(ge=0, lt=256)] = 0
    taps: Annotated[int, Field(ge=0, le=MOST_TAPS)] = 0


class Entry(BaseModel):
    """A tensor: palette counts its different values, or those of all its rows; ladder the values that are told of a
    tensor of evenly spaced ones; both are 0 where its bytes are coded in planes.

    rows: whether each slice along the first axis has a palette of its own. trellis: the kind of that which a ladder's
    multiples are a walk through. scales: how many different factors there are for the slices along `scaled`, 0 where
    nothing is multiplied; the last plane then says which slice has which.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str
    dtype: str
    shape: list[Natural] = Field(max_length=64, fail_fast=True)
    palette: Natural = 0
    rows: bool = False
    ladder: Annotated[int, Field(ge=0, le=MOST_RUNGS)] = 0
    trellis: Annotated[int, Field(ge=NONE, le=ODD_AND_ZERO)] = NONE
    scales: Annotated[int, Field(ge=0, le=PALETTE)] = 0
    scaled: Annotated[int, Field(ge=0, lt=64)] | None = None
    planes: list[Plane] = Field(max_length=17, fail_fast=True)
    crc32: Annotated[int, Field(ge=0, lt=2**32)]

    @property
    def elements(self) -> int:
        """How many it has."""
        return math.prod(self.shape)

    @property
    def palettes(self) -> int:
        """How many palettes it has."""
        return (self.shape[0] if self.rows else 1) if self.palette else 0

    @property
    def slices_scaled(self) -> int:
        """How many slices have a factor."""
        return 0 if self.scaled is None else self.shape[self.scaled]

    @property
    def columns(self) -> int:
        """Columns of the matrix that contexts and predictions see: rows are slices along the first axis."""
        return max(1, math.prod(self.shape[1:]) if len(self.shape) > 1 else self.elements)

    @property
    def parts(self) -> list[Part]:
        """The tensor's planes, each with what it is a plane of."""
        own = [Part(plane, self.elements, self.columns, self.trellis) for plane in self.planes]
        if self.scales:
            own[-1] = Part(self.planes[-1], self.slices_scaled, self.slices_scaled, NONE)
        return own

    @property
    def size(self) -> int:
        """Bytes of one element."""
        return DTYPES[self.dtype].itemsize


@dataclass(frozen=True)
class Part:
    """A plane, how many symbols it has, how many of them are a row, and the kind of its trellis."""

    plane: Plane
    symbols: int
    columns: int
    trellis: int

    @property
    def tables(self) -> int:
        """How many it has: in a trellis two for each group."""
        return self.plane.groups * (2 if self.trellis else 1)

    @property
    def told(self) -> int:
        """The most bytes that its cuts, coefficients and tables may take."""
        return self.plane.groups + coefficients_of(self.plane.taps) + self.tables * MOST_TABLE


class Header(BaseModel):
    """What the file says of itself. graph: bytes of the ONNX graph without its tensors, 0 without one."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    kind: Literal["tensors", "onnx"]
    graph: Annotated[int, Field(ge=0, le=MOST_GRAPH)] = 0
    tensors: list[Entry] = Field(fail_fast=True)

    def canonical(self) -> bytes:
        """The one JSON text of it: keys sorted, no blanks, ASCII."""
        return json.dumps(self.model_dump(), sort_keys=True, separators=(",", ":")).encode()
