"""The file around the coded tensors: fixed head, sections without holes, SHA-256 (docs/l2z.md).

Nothing is allocated before the length that asks for it was checked against the file's own size.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from dataclasses import dataclass

from pydantic import ValidationError

from ...errors import CompressError
from .belief import most_header, raw_bytes, require_believable
from .entries import Header

MAGIC = b"\x89L2Z\r\n\x1a\n"
VERSION = 1
_HEAD = struct.Struct("<8sI5Q")
_DIGEST = 32


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
    require_believable(header, len(content), where)
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


def _deflate(content: bytes) -> bytes:
    return zlib.compress(content, 9) if content else b""


def _inflate(content: bytes, most: int, where: str) -> bytes:
    """Inflate to at most `most` bytes; none from none."""
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
