"""Tensors to the bytes of an .l2z file, and back, bit for bit."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...errors import CompressError
from ...model import CodedTensor
from .belief import believable
from .container import Sections, read, write
from .contexts import Plan, cuts_of, groups_of
from .entries import MOST_TABLES, Entry, Header, Part, Plane
from .forms import Form, coded_form, smallest_form
from .kernels import CENTRE, Bytes
from .ladder import from_ladder
from .planes import DTYPES, Palette, Scales, bytes_of, from_palette, join, multiplied, tensor_of
from .rans import Reader, Writer
from .tables import TableReader


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
    return {each.entry.name: each.tensor for each in opened.tensors}, opened.graph


@dataclass(frozen=True)
class Unpacked:
    """A file that was read: its tensors in order, and the graph if there is one."""

    tensors: list[UnpackedTensor]
    graph: bytes | None


@dataclass(frozen=True)
class UnpackedTensor:
    """A tensor and what the file says of it. bits: what the symbols of its coded planes take."""

    entry: Entry
    tensor: Tensor
    bits: float


def unpack(content: bytes, where: str) -> Unpacked:
    """All that a file holds, each tensor compared with its checksum."""
    header, sections = read(content, where)
    try:
        unpacking = _Unpacking(sections)
        tensors = [unpacking.tensor(entry) for entry in header.tensors]
        unpacking.close()
    except CompressError as error:
        raise CompressError(f"{where}: {error}") from error
    return Unpacked(tensors, sections.graph if header.kind == "onnx" else None)


@dataclass
class _Packing:
    entries: list[Entry] = field(default_factory=list)
    tables: list[bytes] = field(default_factory=list)
    raw: list[bytes] = field(default_factory=list)
    coded: list[Plan] = field(default_factory=list)
    count: int = 0

    def add(self, name: str, tensor: Tensor, known: CodedTensor | None = None) -> None:
        dtype, shape = str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape)
        if dtype not in DTYPES or tensor.layout != torch.strided:
            raise CompressError(f"pack: tensor {name!r} is {dtype}, which .l2z files do not hold")
        if tensor.device.type != "cpu" or not _is_text(name):
            raise CompressError(
                f"pack: tensor {name!r} must be on the CPU and have a name that is plain text"
            )
        content = bytes_of(tensor)
        form = (None if known is None else coded_form(known)) or smallest_form(content, tensor)
        planes = [self._plane(each.symbols, each.centre, each.plan) for each in form.planes]
        self._values(form)
        self.entries.append(
            Entry(
                name=name,
                dtype=dtype,
                shape=list(shape),
                palette=0 if form.palette is None else len(form.palette.values) // tensor.element_size(),
                rows=form.rows,
                ladder=0 if form.rungs is None else len(form.rungs),
                trellis=form.trellis,
                scales=0 if form.scales is None else len(form.scales.values),
                scaled=None if form.scales is None else form.scales.axis,
                planes=planes,
                crc32=zlib.crc32(content.data),
            )
        )

    def _plane(self, symbols: Bytes, centre: int, chosen: Plan | None) -> Plane:
        if chosen is None or self.count + len(chosen.tables) > MOST_TABLES:
            self.raw.append(symbols.tobytes())
            return Plane(groups=0)
        self.count += len(chosen.tables)
        self.coded.append(chosen)
        cuts = cuts_of(chosen.groups)
        self.tables.append(bytes(cuts) + chosen.written)
        return Plane(groups=1 + len(cuts), centre=centre, taps=len(chosen.coefficients))

    def _values(self, form: Form) -> None:
        if form.palette is not None:
            self.raw += [form.palette.counts.tobytes(), form.palette.values.tobytes()]
        if form.rungs is not None:
            self.raw.append(form.rungs.astype("<f4").tobytes())
        if form.scales is not None:
            self.raw.append(form.scales.values.tobytes())

    def sections(self, graph: bytes) -> Sections:
        writer = Writer(sum(len(each.symbols) for each in self.coded))
        for each in reversed(self.coded):
            writer.write(each.symbols, each.chosen, each.tables)
        return Sections(
            tables=b"".join(self.tables), raw=b"".join(self.raw), payload=writer.payload(), graph=graph
        )


class _Unpacking:
    def __init__(self, sections: Sections) -> None:
        self.tables = TableReader(sections.tables)
        self.reader = Reader(sections.payload)
        self.raw, self.raw_at = sections.raw, 0

    def tensor(self, entry: Entry) -> UnpackedTensor:
        """The next one."""
        dtype = DTYPES[entry.dtype]
        read = [self._plane(part) for part in entry.parts]
        planes = [plane for plane, _ in read]
        if entry.palette:
            content = self._from_palette(entry, planes[0])
        elif entry.ladder:
            rungs = self._raw(4 * entry.ladder).view("<f4")
            if not bool(np.isfinite(rungs).all()):
                raise CompressError(f"tensor {entry.name!r} has a ladder that is not of numbers")
            content = from_ladder(planes[0], rungs, entry.trellis)
        else:
            content = join(planes, dtype)
        if entry.scales:
            content = self._scaled(entry, content, planes[-1])
        if zlib.crc32(content.data) != entry.crc32:
            raise CompressError(f"tensor {entry.name!r} does not decode to what was packed")
        bits = sum(taken for _, taken in read)
        return UnpackedTensor(entry, tensor_of(content, dtype, tuple(entry.shape)), bits)

    def close(self) -> None:
        self.tables.close()
        self.reader.close()

    def _plane(self, part: Part) -> tuple[Bytes, float]:
        """The symbols of the next plane, and what they take."""
        if not part.plane.groups:
            return self._raw(part.symbols), 0.0
        groups = groups_of(self.tables.cuts(part.plane.groups - 1))
        coefficients = self.tables.coefficients(part.plane.taps)
        tables = self.tables.tables(part.tables)
        symbols, bits = self.reader.read(
            part.symbols, part.columns, groups, coefficients, part.trellis, tables
        )
        return symbols + np.uint8(part.plane.centre) - np.uint8(CENTRE), bits

    def _from_palette(self, entry: Entry, indices: Bytes) -> Bytes:
        counts = self._raw(entry.palettes)
        values = self._raw(entry.palette * entry.size)
        if int(counts.astype(np.int64).sum()) + len(counts) != entry.palette:
            raise CompressError(f"tensor {entry.name!r} has palettes of other sizes than its header says")
        try:
            return from_palette(Palette(values, counts, indices), entry.size)
        except IndexError as error:
            raise CompressError(f"tensor {entry.name!r} names a value that is not there") from error

    def _scaled(self, entry: Entry, content: Bytes, places: Bytes) -> Bytes:
        values: NDArray[np.float32] = self._raw(entry.scales * entry.size).view("<f4")
        if int(places.max()) >= entry.scales:
            raise CompressError(f"tensor {entry.name!r} names a factor that is not there")
        assert entry.scaled is not None
        return multiplied(content, tuple(entry.shape), Scales(values, places, entry.scaled))

    def _raw(self, count: int) -> Bytes:
        self.raw_at += count
        return np.frombuffer(self.raw, np.uint8, count, self.raw_at - count)


def _is_text(name: object) -> bool:
    """Whether UTF-8 can hold it: it cannot hold a lone surrogate."""
    try:
        return isinstance(name, str) and name.encode().decode() == name
    except UnicodeEncodeError:
        return False
