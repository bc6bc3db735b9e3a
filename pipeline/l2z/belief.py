"""Whether what a header says can be true of a file of its size: asked before anything is allocated."""

from __future__ import annotations

import math

from ...errors import CompressError
from .entries import MOST_SPAN, MOST_TABLES, Entry, Header, Part
from .kernels import CENTRE
from .planes import DTYPES, PALETTE, WORDS

MOST_HEADER = 64 << 20
HEADER_RATIO, FREE_HEADER = 100, 1 << 20
"""A header may unpack to so many times the file's bytes, and so many beside."""
MOST_RATIO, FREE_BYTES = 1000, 64 << 20
"""Decoded tensors may take so many times the file's bytes, and so many beside."""


def raw_bytes(header: Header) -> int:
    """Bytes of what is stored as it is, of all tensors."""
    return sum(raw_of(entry) for entry in header.tensors)


def raw_of(entry: Entry) -> int:
    """Bytes of a tensor that are stored as they are: planes that are not coded, sizes and values of palettes, the
    values of a ladder, and factors."""
    plain = sum(part.symbols for part in entry.parts if not part.plane.groups)
    return plain + entry.palettes + (entry.palette + entry.ladder + entry.scales) * entry.size


def most_header(file_bytes: int) -> int:
    """What the header of a file of so many bytes may unpack to."""
    return min(MOST_HEADER, HEADER_RATIO * file_bytes + FREE_HEADER)


def believable(total: int, file_bytes: int) -> bool:
    """Whether a file of so many bytes may hold tensors of `total` bytes."""
    return total <= MOST_RATIO * file_bytes + FREE_BYTES


def require_believable(header: Header, file_bytes: int, where: str) -> None:
    """Everything that a header may claim, before anything is allocated for it."""
    names = [entry.name for entry in header.tensors]
    if len(set(names)) < len(names):
        raise CompressError(f"{where}: its header names a tensor twice")
    if (header.kind == "onnx") != (header.graph > 0):
        raise CompressError(f"{where}: it is of the kind {header.kind} and has {header.graph} bytes of graph")
    total = tables = 0
    for entry in header.tensors:
        if entry.dtype not in DTYPES:
            raise CompressError(f"{where}: tensor {entry.name!r} has the unknown type {entry.dtype!r}")
        if math.prod(max(length, 1) for length in entry.shape) * entry.size >= MOST_SPAN:
            raise CompressError(f"{where}: tensor {entry.name!r} has the impossible shape {entry.shape}")
        few = entry.palette or entry.ladder
        if len(entry.planes) != (1 if few else entry.size) + (entry.scales > 0):
            raise CompressError(f"{where}: tensor {entry.name!r} has {len(entry.planes)} planes")
        if entry.palette and not _may_have_palette(entry):
            raise CompressError(
                f"{where}: tensor {entry.name!r} of type {entry.dtype} cannot have this palette"
            )
        if (entry.ladder or entry.trellis) and not _may_have_ladder(entry):
            raise CompressError(
                f"{where}: tensor {entry.name!r} of type {entry.dtype} cannot have this ladder"
            )
        if (entry.scales > 0 or entry.scaled is not None) and not _may_be_scaled(entry):
            raise CompressError(f"{where}: tensor {entry.name!r} cannot have these factors")
        if entry.rows and not entry.palette:
            raise CompressError(f"{where}: tensor {entry.name!r} has rows without a palette")
        for part in entry.parts:
            if part.trellis and part.plane.groups and part.plane.centre != CENTRE:
                raise CompressError(
                    f"{where}: tensor {entry.name!r} has a trellis that is not about {CENTRE}"
                )
            if part.plane.taps and not _may_be_predicted(part):
                raise CompressError(
                    f"{where}: tensor {entry.name!r} cannot be predicted in kernels of {part.plane.taps} taps"
                )
            if part.plane.groups and not part.symbols:
                raise CompressError(f"{where}: tensor {entry.name!r} has tables without symbols")
            tables += part.tables
        total += entry.elements * entry.size
    if tables > MOST_TABLES:
        raise CompressError(f"{where}: it has {tables:,} tables; a file has at most {MOST_TABLES:,}")
    if not believable(total, file_bytes):
        raise CompressError(f"{where}: {file_bytes:,} bytes would unpack to {total:,}; no model does that")


def _may_have_palette(entry: Entry) -> bool:
    if entry.size not in WORDS or not entry.elements or (entry.rows and not entry.shape):
        return False
    return entry.palettes <= entry.palette <= min(entry.elements, PALETTE * entry.palettes)


def _may_have_ladder(entry: Entry) -> bool:
    return entry.dtype == "float32" and entry.ladder > 0 and not entry.palette and entry.elements > 0


def _may_be_predicted(part: Part) -> bool:
    return part.plane.groups > 0 and part.plane.taps > 1 and part.columns % part.plane.taps == 0


def _may_be_scaled(entry: Entry) -> bool:
    if entry.dtype != "float32" or not (entry.palette or entry.ladder) or entry.rows or entry.scaled is None:
        return False
    return entry.scaled < len(entry.shape) and 0 < entry.scales <= entry.shape[entry.scaled]
