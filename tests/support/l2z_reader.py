"""A reader of .l2z files written from docs/l2z.md alone, one symbol at a time: what the page says must be enough."""

from __future__ import annotations

import hashlib
import json
import math
import struct
import zlib
from collections.abc import Iterator
from typing import Any

SIZES = {"float32": 4, "float16": 2, "int8": 1, "int64": 8}
ROTATED = {"float32", "float16"}
Table = dict[int, tuple[int, int]]


def read(content: bytes) -> dict[str, bytes]:
    """The bytes of each tensor by name."""
    assert content[:8] == b"\x89L2Z\r\n\x1a\n"
    assert content[-32:] == hashlib.sha256(content[:-32]).digest()
    version, *lengths = struct.unpack_from("<I5Q", content, 8)
    assert version == 1 and 52 + sum(lengths) + 32 == len(content)
    parts, place = [], 52
    for length in lengths:
        parts.append(content[place : place + length])
        place += length
    header, tables = (zlib.decompress(part) if part else b"" for part in parts[:2])
    told, raw, coded = iter(tables), iter(parts[2]), Payload(parts[3])
    found = {
        entry["name"]: tensor(entry, planes_of(entry, told, raw, coded), raw)
        for entry in json.loads(header)["tensors"]
    }
    assert next(told, None) is None and next(raw, None) is None
    coded.close()
    return found


def planes_of(entry: Any, told: Iterator[int], raw: Iterator[int], coded: Payload) -> list[list[int]]:
    """Those that are not coded come first in raw, so all are read before any value."""
    shape, count = entry["shape"], math.prod(entry["shape"])
    columns = math.prod(shape[1:]) if len(shape) > 1 else count
    found = []
    for number, plane in enumerate(entry["planes"]):
        factors = entry["scales"] > 0 and number == len(entry["planes"]) - 1
        size = shape[entry["scaled"]] if factors else count
        trellis = 0 if factors else entry["trellis"]
        if plane["groups"] == 0:
            found.append([next(raw) for _ in range(size)])
            continue
        cuts = [next(told) for _ in range(plane["groups"] - 1)]
        rows = [[signed(next(told)) for _ in range(tap)] for tap in range(plane["taps"])]
        tables = [table(told) for _ in range(plane["groups"] * (2 if trellis else 1))]
        turned = plane_of(coded, size, size if factors else columns, cuts, rows, tables, trellis)
        found.append([(t + plane["centre"] - 128) % 256 for t in turned])
    return found


def table(numbers: Iterator[int]) -> Table:
    """{symbol: (start, frequency)}"""
    low, high, untold = next(numbers), next(numbers), next(numbers)
    frequencies, code = {}, 0
    for symbol in range(low, high + 1):
        if symbol != untold:
            code = (code + next(numbers)) % 256
            assert code <= 95
            frequencies[symbol] = code if code < 16 else (8 + code % 8) * 2 ** (code // 8 - 1)
    frequencies[untold] = 2**14 - sum(frequencies.values())
    assert min(frequencies[symbol] for symbol in (low, high, untold)) >= 1
    found, start = {}, 0
    for symbol in range(low, high + 1):
        found[symbol] = (start, frequencies[symbol])
        start += frequencies[symbol]
    return found


def plane_of(
    coded: Payload,
    count: int,
    columns: int,
    cuts: list[int],
    coefficients: list[list[int]],
    tables: list[Table],
    trellis: int,
) -> list[int]:
    averages, row_average, symbols = [2**15] * columns, 2**15, []
    numbers: list[int] = []
    state = 0
    for i in range(count):
        row, column = divmod(i, columns)
        context = half_octaves(row_average) + half_octaves(averages[column])
        number = sum(cut <= context for cut in cuts)
        if trellis:
            number = 2 * number + state % 2
        symbol = coded.symbol(tables[number])
        whole = symbol
        if coefficients:
            numbers = numbers if i % len(coefficients) else []
            q = sum(a * x for a, x in zip(coefficients[len(numbers)], numbers, strict=True))
            expected = sign(q) * ((abs(q) + 8) // 16)
            if trellis == 1:
                expected = (q + 15 + 16 * (state % 2)) // 32
            if trellis == 2:
                expected = sign(q) * ((abs(q) + 16 + 16 * (state % 2)) // 32) if abs(q) >= 8 else 0
            whole = (symbol + expected) % 256
            numbers.append(multiple(whole - 128, state, trellis))
        state = following(state, whole - 128)
        size = abs(symbol - 128)
        row_average = after(row_average, size, column)
        averages[column] = after(averages[column], size, row)
        symbols.append(whole)
    return symbols


def signed(byte: int) -> int:
    return byte - 256 if byte > 127 else byte


def sign(x: int) -> int:
    return (x > 0) - (x < 0)


def half_octaves(x: int) -> int:
    whole = x.bit_length() - 1
    return 2 * whole + (2 * x >= 3 * 2**whole)


def after(x: int, size: int, seen: int) -> int:
    h = min(7, 1 + (seen + 1).bit_length() - 1)
    return x - x // 2**h + size * 2 ** (16 - h)


def following(state: int, k: int) -> int:
    return (state // 2) ^ (166 if state % 2 else 0) ^ (121 if k % 2 else 0)


class Payload:
    def __init__(self, content: bytes) -> None:
        self.states = list(struct.unpack_from("<4I", content)) if content else [2**16] * 4
        words = content[16:]
        self.words = iter(struct.unpack(f"<{len(words) // 2}H", words))
        self.count = 0

    def symbol(self, table: Table) -> int:
        x = self.states[self.count % 4]
        slot = x % 2**14
        symbol = next(t for t, (start, f) in table.items() if start <= slot < start + f)
        start, frequency = table[symbol]
        x = frequency * (x // 2**14) + slot - start
        if x < 2**16:
            x = 2**16 * x + next(self.words)
        self.states[self.count % 4] = x
        self.count += 1
        return symbol

    def close(self) -> None:
        assert next(self.words, None) is None and set(self.states) == {2**16}


def tensor(entry: Any, planes: list[list[int]], raw: Iterator[int]) -> bytes:
    count, size = math.prod(entry["shape"]), SIZES[entry["dtype"]]
    if entry["palette"]:
        lengths = [next(raw) + 1 for _ in range(entry["shape"][0] if entry["rows"] else 1)]
        lists = [[bytes(next(raw) for _ in range(size)) for _ in range(n)] for n in lengths]
        row = count // len(lists)
        content = b"".join(lists[i // row][index] for i, index in enumerate(planes[0]))
    elif entry["ladder"]:
        rungs = [0.0, *(number(raw) for _ in range(entry["ladder"]))]
        content = b"".join(struct.pack("<f", value(rungs, p)) for p in multiples(planes[0], entry["trellis"]))
    else:
        content = bytes(byte for element in zip(*planes, strict=True) for byte in element)
        if entry["dtype"] in ROTATED:
            bits = 8 * size
            words = struct.unpack(f"<{count}{'I' if size == 4 else 'H'}", content)
            turned = [w >> 1 | (w & 1) << bits - 1 for w in words]
            content = struct.pack(f"<{count}{'I' if size == 4 else 'H'}", *turned)
    if entry["scales"]:
        factors = [number(raw) for _ in range(entry["scales"])]
        inner = math.prod(entry["shape"][entry["scaled"] + 1 :])
        values = struct.unpack(f"<{count}f", content)
        # Of two binary32 the product is exact in binary64; pack rounds it once.
        content = struct.pack(
            f"<{count}f",
            *(v * factors[planes[-1][i // inner % len(planes[-1])]] for i, v in enumerate(values)),
        )
    assert zlib.crc32(content) == entry["crc32"]
    return content


def number(raw: Iterator[int]) -> float:
    found: float = struct.unpack("<f", bytes(next(raw) for _ in range(4)))[0]
    return found


def multiples(symbols: list[int], trellis: int) -> Iterator[int]:
    state = 0
    for symbol in symbols:
        yield multiple(symbol - 128, state, trellis)
        state = following(state, symbol - 128)


def multiple(k: int, state: int, trellis: int) -> int:
    if trellis == 0:
        return k
    return 2 * k - state % 2 * (1 if trellis == 1 else sign(k))


def value(rungs: list[float], p: int) -> float:
    told, size = len(rungs) - 1, abs(p)
    found = rungs[size] if size <= told else rungs[told] + (size - told) * (rungs[told] - rungs[told - 1])
    return -found if p < 0 else found
