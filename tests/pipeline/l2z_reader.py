"""A reader of .l2z files written from docs/l2z.md alone, one symbol at a time: what the page says must be enough."""

from __future__ import annotations

import hashlib
import json
import math
import struct
import zlib
from collections.abc import Iterator

SIZES = {"float32": 4, "float16": 2, "int8": 1, "int64": 8}
ROTATED = {"float32", "float16"}


def read(content: bytes) -> dict[str, bytes]:
    """The bytes of each tensor by name."""
    assert content[:8] == b"\x89L2Z\r\n\x1a\n"
    assert content[-32:] == hashlib.sha256(content[:-32]).digest()
    version, *lengths = struct.unpack_from("<I6Q", content, 8)
    assert version == 1 and 60 + sum(lengths) + 32 == len(content)
    parts, place = [], 60
    for length in lengths:
        parts.append(content[place : place + length])
        place += length
    header, tables, sides = (zlib.decompress(part) if part else b"" for part in parts[:3])
    entries = json.loads(header)["tensors"]
    all_tables, side, raw = table_list(tables), iter(sides), iter(parts[3])
    choices: list[list[dict[int, tuple[int, int]]]] = []
    list_sizes = []
    for entry in entries:
        for plane in entry["planes"]:
            if plane["tables"]:
                own = [next(all_tables) for _ in range(plane["tables"])]
                choices.append(table_of_each(entry["shape"], plane["axis"], own, side))
        lists = (entry["shape"][0] if entry["rows"] else 1) if entry["palette"] else 0
        sizes = [next(side) + 1 for _ in range(lists)]
        slices = 0 if entry["scaled"] is None else entry["shape"][entry["scaled"]]
        list_sizes.append((sizes, [next(side) for _ in range(slices)]))
    symbols = iter(payload(parts[4], [table for plane in choices for table in plane]))
    return {
        entry["name"]: tensor(entry, *told, symbols, raw)
        for entry, told in zip(entries, list_sizes, strict=True)
    }


def table_list(content: bytes) -> Iterator[dict[int, tuple[int, int]]]:
    """Each table as {symbol: (start, frequency)}."""
    numbers = iter(content)
    for low in numbers:
        table, start = {}, 0
        for symbol in range(low, next(numbers) + 1):
            frequency = shift = 0
            while True:
                byte = next(numbers)
                frequency |= (byte & 127) << shift
                shift += 7
                if byte < 128:
                    break
            table[symbol] = (start, frequency)
            start += frequency
        assert start == 1 << 14
        yield table


def table_of_each(
    shape: list[int], axis: int | None, tables: list[dict[int, tuple[int, int]]], side: Iterator[int]
) -> list[dict[int, tuple[int, int]]]:
    count = math.prod(shape)
    if axis is None:
        return tables * count
    classes = [next(side) for _ in range(shape[axis])]
    inner = math.prod(shape[axis + 1 :])
    return [tables[classes[i // inner % shape[axis]]] for i in range(count)]


def payload(content: bytes, tables: list[dict[int, tuple[int, int]]]) -> list[int]:
    count = len(tables)
    if not count:
        return []
    lanes = max(1, min(16384, count // 2048))
    states = list(struct.unpack_from(f"<{lanes}I", content))
    words = iter(struct.unpack_from(f"<{(len(content) - 4 * lanes) // 2}H", content, 4 * lanes))
    symbols = []
    for i in range(count):
        x = states[i % lanes]
        slot = x % 2**14
        symbol = next(s for s, (start, f) in tables[i].items() if start <= slot < start + f)
        start, frequency = tables[i][symbol]
        x = frequency * (x // 2**14) + slot - start
        if x < 2**16:
            x = 2**16 * x + next(words)
        states[i % lanes] = x
        symbols.append(symbol)
    assert next(words, None) is None and set(states) == {2**16}
    return symbols


def tensor(entry, sizes, places, symbols, raw) -> bytes:  # type: ignore[no-untyped-def]
    count, size = math.prod(entry["shape"]), SIZES[entry["dtype"]]
    planes = [[next(symbols if plane["tables"] else raw) for _ in range(count)] for plane in entry["planes"]]
    if sizes:
        lists = [[bytes(next(raw) for _ in range(size)) for _ in range(n)] for n in sizes]
        row = count // len(lists)
        content = b"".join(lists[i // row][index] for i, index in enumerate(planes[0]))
        if places:
            factors = [
                struct.unpack("<f", bytes(next(raw) for _ in range(4)))[0] for _ in range(entry["scales"])
            ]
            inner = math.prod(entry["shape"][entry["scaled"] + 1 :])
            values = struct.unpack(f"<{count}f", content)
            # Of two binary32 the product is exact in binary64; pack rounds it once.
            content = struct.pack(
                f"<{count}f",
                *(v * factors[places[i // inner % len(places)]] for i, v in enumerate(values)),
            )
    else:
        content = bytes(byte for element in zip(*planes, strict=True) for byte in element)
        if entry["dtype"] in ROTATED:
            bits = 8 * size
            words = struct.unpack(f"<{count}{'I' if size == 4 else 'H'}", content)
            turned = [w >> 1 | (w & 1) << bits - 1 for w in words]
            content = struct.pack(f"<{count}{'I' if size == 4 else 'H'}", *turned)
    assert zlib.crc32(content) == entry["crc32"]
    return content
