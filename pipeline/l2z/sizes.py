"""What each tensor of an .l2z file takes of it."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

from .codec import unpack
from .container import Entry, sides_of
from .planes import bytes_of


@dataclass(frozen=True)
class TensorSize:
    """A tensor's part of a file. bytes: its coded symbols, its values and its share of what is told of slices, without
    tables and header; zeros: share of its elements that are 0."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    bytes: float
    zeros: float

    @property
    def elements(self) -> int:
        """How many it has."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def bits(self) -> float:
        """Of one element."""
        return 8 * self.bytes / max(1, self.elements)


def tensor_sizes(content: bytes, where: str) -> list[TensorSize]:
    """One for each tensor, in the file's order; CompressError says what is wrong with the file `where`."""
    opened = unpack(content, where)
    coded, sides = opened.bits(), opened.sections.sides
    deflated = len(zlib.compress(sides, 9)) / max(1, len(sides))
    found = []
    for entry in opened.header.tensors:
        symbols = sum(next(coded) for plane in entry.planes if plane.tables)
        tensor = opened.tensors[entry.name]
        zeros = 1 - np.count_nonzero(bytes_of(tensor != 0)) / max(1, entry.elements)
        found.append(
            TensorSize(
                entry.name,
                entry.dtype,
                tuple(entry.shape),
                symbols / 8 + _values(entry) + deflated * sides_of(entry),
                float(zeros),
            )
        )
    return found


def _values(entry: Entry) -> int:
    """Bytes of a tensor in *raw*: planes as they are, values, factors."""
    plain = sum(plane.tables == 0 for plane in entry.planes) * entry.elements
    return plain + (entry.palette + entry.scales) * entry.size
