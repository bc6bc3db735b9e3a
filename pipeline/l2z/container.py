"""The file around the coded tensors: fixed head, sections without holes, SHA-256 (docs/l2z.md).

Nothing is allocated before the length that asks for it was checked against the file's own size.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
import zlib
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ...errors import CompressError
from ...trellis import NONE, ODD_AND_ZERO
from .kernels import CENTRE, CONTEXTS
from .ladder import MOST_RUNGS
from .planes import DTYPES, PALETTE, WORDS
from .prediction import MOST_TAPS, coefficients_of
from .tables import MOST_TABLE

MAGIC = b"\x89L2Z\r\n\x1a\n"
VERSION = 1
_HEAD = struct.Struct("<8sI5Q")
_DIGEST = 32
MOST_HEADER, MOST_GRAPH = 64 << 20, (2 << 30) - 1
HEADER_RATIO, FREE_HEADER = 100, 1 << 20
"""A header may unpack to so many times the file's bytes, and so many beside."""
MOST_TABLES = 8192
"""A reader keeps 2 KiB for each."""
MOST_SPAN = 2**62
"""Bytes of a tensor, sizes of 0 counted as 1: torch and numpy count in 63 bits."""
MOST_RATIO, FREE_BYTES = 1000, 64 << 20
"""Decoded tensors may take so many times the file's bytes, and so many beside."""

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
        """Of the matrix as which contexts and predictions see it: its rows are the slices along the first axis."""
        return max(1, math.prod(self.shape[1:]) if len(self.shape) > 1 else self.elements)

    @property
    def parts(self) -> list[Part]:
        """Its planes, with what they are planes of."""
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


@dataclass(frozen=True)
class Sections:
    """The sections of a file: groups and tables, bytes as they are, coded symbols, graph."""

    tables: bytes
    raw: bytes
    payload: bytes
    graph: bytes


def write(header: Header, sections: Sections) -> bytes:
    """The file's bytes."""
    text = header.canonical()
    parts = [
        _deflate(text),
        _deflate(sections.tables),
        sections.raw,
        sections.payload,
        _deflate(sections.graph),
    ]
    content = _HEAD.pack(MAGIC, VERSION, *(len(part) for part in parts)) + b"".join(parts)
    if len(text) > most_header(len(content) + _DIGEST):
        raise CompressError(
            f"pack: a header of {len(text):,} bytes is more than a reader takes; pack fewer tensors"
        )
    return content + hashlib.sha256(content).digest()


def read(content: bytes, where: str) -> tuple[Header, Sections]:
    """The header and the parts of a file; CompressError says what is wrong with it."""
    if content[: len(MAGIC)] != MAGIC:
        raise CompressError(f"{where} is not an .l2z file")
    if len(content) < _HEAD.size + _DIGEST:
        raise CompressError(f"{where} is cut short: {len(content)} bytes")
    _, version, *lengths = _HEAD.unpack_from(content)
    if version != VERSION:
        raise CompressError(
            f"{where} has version {version} of the format; this edgepress reads version {VERSION}"
        )
    if _HEAD.size + sum(lengths) + _DIGEST != len(content):
        told = _HEAD.size + sum(lengths) + _DIGEST
        raise CompressError(
            f"{where} is {len(content):,} bytes long and says {told:,}; it was cut or added to"
        )
    if hashlib.sha256(content[:-_DIGEST]).digest() != content[-_DIGEST:]:
        raise CompressError(f"{where} is damaged: its SHA-256 is another; copy it again")
    parts, place = [], _HEAD.size
    for length in lengths:
        parts.append(content[place : place + length])
        place += length
    header = _header(_inflate(parts[0], most_header(len(content)), where), where)
    _check(header, len(content), where)
    parts_of = [part for entry in header.tensors for part in entry.parts]
    most_tables = sum(part.told for part in parts_of)
    sections = Sections(
        tables=_inflate(parts[1], most_tables, where),
        raw=parts[2],
        payload=parts[3],
        graph=_inflate(parts[4], header.graph, where),
    )
    if raw_bytes(header) != len(sections.raw):
        raise CompressError(f"{where}: its sections have other lengths than its header says")
    if header.graph != len(sections.graph):
        raise CompressError(f"{where}: its graph has another length than its header says")
    return header, sections


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


def _header(text: bytes, where: str) -> Header:
    try:
        header = Header.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise CompressError(
            f"{where}: its header is malformed at {place or 'the start'}: {first['msg']}"
        ) from error
    if header.canonical() != text:
        raise CompressError(f"{where}: its header is not in the canonical form")
    return header


def _check(header: Header, file_bytes: int, where: str) -> None:
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


def _deflate(content: bytes) -> bytes:
    return zlib.compress(content, 9) if content else b""


def _inflate(content: bytes, most: int, where: str) -> bytes:
    """At most `most` bytes; none from none."""
    if not content:
        return b""
    unpacking = zlib.decompressobj()
    try:
        found = unpacking.decompress(content, most + 1)
    except zlib.error as error:
        raise CompressError(f"{where}: a section is damaged ({error})") from error
    if len(found) > most or not unpacking.eof or unpacking.unused_data:
        raise CompressError(f"{where}: a section is longer than its header says")
    return found
