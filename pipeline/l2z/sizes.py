"""What each tensor of an .l2z file takes of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .belief import raw_of
from .codec import unpack
from .planes import bytes_of


@dataclass(frozen=True)
class TensorSize:
    """A tensor's part of a file. bytes: its coded symbols and its values, without tables and header; zeros: share of
    its elements that are 0."""

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
        """Bits that one element takes on average."""
        return 8 * self.bytes / max(1, self.elements)


def tensor_sizes(content: bytes, where: str) -> list[TensorSize]:
    """The size of each tensor, in the file's order; CompressError says what is wrong with the file `where`."""
    found = []
    for each in unpack(content, where).tensors:
        entry = each.entry
        zeros = 1 - np.count_nonzero(bytes_of(each.tensor != 0)) / max(1, entry.elements)
        size = each.bits / 8 + raw_of(entry)
        found.append(TensorSize(entry.name, entry.dtype, tuple(entry.shape), size, float(zeros)))
    return found
