"""Tensors to the bytes of an .l2z file, and back, bit for bit."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...errors import CompressError
from ...model import CodedTensor
from .container import MOST_TABLES, Entry, Header, Plane, Sections, believable, read, write
from .contexts import Plan, choices, plan
from .planes import (
    DTYPES,
    Palette,
    Scales,
    bytes_of,
    from_palette,
    join,
    multiplied,
    palette_of,
    palette_of_coded,
    split,
    tensor_of,
)
from .rans import TOTAL, Bytes, Stream, Table, decode, encode
from .tables import read_tables, write_table

WORTHWHILE = 0.995
"""A plane is coded where it takes less than this share of its bytes, and stored as it is elsewhere."""


def pack_tensors(
    tensors: Mapping[str, Tensor],
    graph: bytes | None = None,
    coded: Mapping[str, CodedTensor] = MappingProxyType({}),
) -> bytes:
    """An .l2z file of tensors by name, of any type and shape, and of the ONNX graph that they were taken from.

    coded: what is known of some of them, equal bit for bit. The same tensors give the same bytes. CompressError for a
    type that the format does not know, and for tensors that shrink so far that no reader would believe it.
    """
    packing = _Packing()
    for name, tensor in tensors.items():
        packing.add(name, tensor, coded.get(name))
    header = Header(
        kind="tensors" if graph is None else "onnx", graph=len(graph or b""), tensors=packing.entries
    )
    content = write(header, packing.sections(graph or b""))
    total = sum(entry.elements * entry.size for entry in packing.entries)
    if not believable(total, len(content)):
        raise CompressError(
            f"pack: {total:,} bytes of tensors would take {len(content):,}, which no reader would believe; leave out"
            " tensors that hold one value only"
        )
    return content


def unpack_tensors(content: bytes, where: str) -> tuple[dict[str, Tensor], bytes | None]:
    """The tensors by name, and the graph if there is one; CompressError says what is wrong with the file `where`."""
    opened = unpack(content, where)
    return opened.tensors, opened.sections.graph if opened.header.kind == "onnx" else None


@dataclass(frozen=True)
class Unpacked:
    """A file that was read: what it says, and its tensors by name. bits: of each coded plane, in order."""

    header: Header
    sections: Sections
    tensors: dict[str, Tensor]
    bits: Callable[[], Iterator[float]]


def unpack(content: bytes, where: str) -> Unpacked:
    """The same with all that the file holds."""
    header, sections = read(content, where)
    try:
        unpacking = _Unpacking(header, sections)
        return Unpacked(header, sections, dict(unpacking.tensors()), unpacking.bits)
    except CompressError as error:
        raise CompressError(f"{where}: {error}") from error


@dataclass
class _Packing:
    entries: list[Entry] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    sides: list[Bytes] = field(default_factory=list)
    raw: list[bytes] = field(default_factory=list)
    symbols: list[Bytes] = field(default_factory=list)
    choices: list[NDArray[np.uint16]] = field(default_factory=list)

    def add(self, name: str, tensor: Tensor, known: CodedTensor | None = None) -> None:
        dtype, shape = str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape)
        if dtype not in DTYPES or tensor.layout != torch.strided:
            raise CompressError(f"pack: tensor {name!r} is {dtype}, which .l2z files do not hold")
        if tensor.device.type != "cpu" or not _is_text(name):
            raise CompressError(
                f"pack: tensor {name!r} must be on the CPU and have a name that is plain text"
            )
        content = bytes_of(tensor)
        form = _smallest(content, tensor) if known is None else _of_coded(known)
        palette, scales = form.palette, form.scales
        planes = [self._plane(plane, chosen, shape) for plane, chosen in form.planes]
        if palette is not None:
            self.raw.append(palette.values.tobytes())
            self.sides.append(palette.counts)
        if scales is not None:
            self.raw.append(scales.values.tobytes())
            self.sides.append(scales.places)
        self.entries.append(
            Entry(
                name=name,
                dtype=dtype,
                shape=list(shape),
                palette=0 if palette is None else len(palette.values) // tensor.element_size(),
                rows=form.rows,
                scales=0 if scales is None else len(scales.values),
                scaled=None if scales is None else scales.axis,
                planes=planes,
                crc32=zlib.crc32(content.data),
            )
        )

    def _plane(self, symbols: Bytes, chosen: Plan | None, shape: tuple[int, ...]) -> Plane:
        full = chosen is not None and len(self.tables) + len(chosen.tables) > MOST_TABLES
        if chosen is None or full or chosen.size >= WORTHWHILE * len(symbols):
            self.raw.append(symbols.tobytes())
            return Plane(tables=0)
        self.symbols.append(symbols)
        self.choices.append(choices(chosen.axis, chosen.classes, shape, len(self.tables)))
        self.tables += chosen.tables
        self.sides.append(chosen.classes)
        return Plane(tables=len(chosen.tables), axis=chosen.axis)

    def sections(self, graph: bytes) -> Sections:
        none = np.zeros(0, np.uint8)
        stream = Stream(
            np.concatenate([none, *self.symbols]), np.concatenate([none.astype(np.uint16), *self.choices])
        )
        return Sections(
            tables=b"".join(write_table(table) for table in self.tables),
            sides=b"".join(side.tobytes() for side in self.sides),
            raw=b"".join(self.raw),
            payload=encode(stream, self.tables),
            graph=graph,
        )


class _Unpacking:
    def __init__(self, header: Header, sections: Sections) -> None:
        self.header, self.sections = header, sections
        count = sum(plane.tables for entry in header.tensors for plane in entry.planes)
        self.tables = read_tables(sections.tables, count)
        self.counts: list[Bytes] = []
        self.places: list[Bytes] = []
        self.raw_at = self.symbols_at = self.sides_at = 0
        self.choices = self._choices()
        self.symbols = decode(sections.payload, self.choices, self.tables)

    def _choices(self) -> NDArray[np.uint16]:
        """The table of every symbol; the classes of slices are read on the way, palettes' sizes passed over."""
        found = [np.zeros(0, np.uint16)]
        first = 0
        for entry in self.header.tensors:
            for plane in entry.planes:
                if not plane.tables:
                    continue
                classes = self._side(0 if plane.axis is None else entry.shape[plane.axis])
                if len(classes) and int(classes.max()) >= plane.tables:
                    raise CompressError(f"tensor {entry.name!r} names a table that is not there")
                found.append(choices(plane.axis, classes, tuple(entry.shape), first))
                first += plane.tables
            self.counts.append(self._side(entry.palettes))
            self.places.append(self._side(entry.slices_scaled))
        return np.concatenate(found)

    def bits(self) -> Iterator[float]:
        """What the symbols of each coded plane take."""
        lengths = np.log2(TOTAL) - np.log2(np.maximum(np.stack(self.tables), 1)) if self.tables else None
        place = 0
        for entry in self.header.tensors:
            for _ in (plane for plane in entry.planes if plane.tables):
                chosen = slice(place, place + entry.elements)
                assert lengths is not None
                yield float(lengths[self.choices[chosen], self.symbols[chosen]].sum())
                place += entry.elements

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """One after another, each compared with its checksum."""
        for entry, counts, places in zip(self.header.tensors, self.counts, self.places, strict=True):
            dtype = DTYPES[entry.dtype]
            planes = [self._plane(entry, plane) for plane in entry.planes]
            content = self._from_palette(entry, planes[0], counts) if entry.palette else join(planes, dtype)
            if entry.scaled is not None:
                content = self._scaled(entry, content, places)
            if zlib.crc32(content.data) != entry.crc32:
                raise CompressError(f"tensor {entry.name!r} does not decode to what was packed")
            yield entry.name, tensor_of(content, dtype, tuple(entry.shape))

    def _from_palette(self, entry: Entry, indices: Bytes, counts: Bytes) -> Bytes:
        values = self._raw(entry.palette * entry.size)
        if int(counts.astype(np.int64).sum()) + len(counts) != entry.palette:
            raise CompressError(f"tensor {entry.name!r} has palettes of other sizes than its header says")
        try:
            return from_palette(Palette(values, counts, indices), entry.size)
        except IndexError as error:
            raise CompressError(f"tensor {entry.name!r} names a value that is not there") from error

    def _scaled(self, entry: Entry, content: Bytes, places: Bytes) -> Bytes:
        values = self._raw(entry.scales * entry.size).view("<f4")
        if int(places.max()) >= entry.scales:
            raise CompressError(f"tensor {entry.name!r} names a factor that is not there")
        assert entry.scaled is not None
        return multiplied(content, tuple(entry.shape), Scales(values, places, entry.scaled))

    def _plane(self, entry: Entry, plane: Plane) -> Bytes:
        if not plane.tables:
            return self._raw(entry.elements)
        self.symbols_at += entry.elements
        return self.symbols[self.symbols_at - entry.elements : self.symbols_at]

    def _raw(self, count: int) -> Bytes:
        self.raw_at += count
        return np.frombuffer(self.sections.raw, np.uint8, count, self.raw_at - count)

    def _side(self, count: int) -> Bytes:
        self.sides_at += count
        return np.frombuffer(self.sections.sides, np.uint8, count, self.sides_at - count)


@dataclass(frozen=True)
class _Form:
    """How a tensor is stored: its planes with their plans, and the palettes and factors that these are about."""

    planes: list[tuple[Bytes, Plan | None]]
    palette: Palette | None = None
    rows: bool = False
    scales: Scales | None = None


def _smallest(content: Bytes, tensor: Tensor) -> _Form:
    """The form that takes the fewest bytes by estimate: planes, a palette, or a palette for each row."""
    shape = tuple(tensor.shape)
    best = _Form([(plane, plan(plane, shape)) for plane in split(content, tensor.dtype)])
    size = sum(_size(plane, chosen) for plane, chosen in best.planes)
    for by_rows in (False, True):
        found = _palette(content, tensor, by_rows)
        if found is None:
            continue
        chosen = plan(found.indices, shape)
        if (whole := _size(found.indices, chosen) + len(found.values) + len(found.counts)) < size:
            best, size = _Form([(found.indices, chosen)], found, by_rows), whole
    return best


def _of_coded(known: CodedTensor) -> _Form:
    palette, scales = palette_of_coded(known)
    planes = [(palette.indices, plan(palette.indices, tuple(known.indices.shape)))]
    return _Form(planes, palette, scales=scales)


def _palette(content: Bytes, tensor: Tensor, by_rows: bool) -> Palette | None:
    """The palette of a tensor or of its rows, None where there is none or it cannot pay."""
    rows = tensor.shape[0] if by_rows and tensor.dim() > 1 else 1
    if not len(content) or (by_rows and rows == 1):
        return None
    found = palette_of(content, tensor.element_size(), rows)
    return found if found is not None and len(found.values) < len(content) else None


def _is_text(name: object) -> bool:
    """Whether UTF-8 can hold it: it cannot hold a lone surrogate."""
    try:
        return isinstance(name, str) and name.encode().decode() == name
    except UnicodeEncodeError:
        return False


def _size(symbols: Bytes, chosen: Plan | None) -> float:
    """Bytes of a plane by estimate, coded or as it is."""
    return len(symbols) if chosen is None else min(chosen.size, len(symbols))
