"""Elements of any type as planes of bytes, and back: what is alike in the values comes together in one plane.

The planes of an element are its bytes, least significant first; of a floating-point number after a rotation to the
left by one bit, so that the last plane is its exponent and the sign, which nothing predicts, is in the first. A tensor
whose rows, or which as a whole, take at most 256 different values is one plane of indices into these.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...compiled import compiled
from ...model import CodedTensor
from .kernels import Bytes

DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2,
        torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint32, torch.uint64,
        torch.bool, torch.complex64, torch.complex128,
    )
}  # fmt: skip
PALETTE = 256
WORDS = (1, 2, 4, 8)
"""Sizes of elements that may have a palette."""
LEAST_GAPS = 0.55
"""Rows of bytes that use more of their span than that have no values of their own that are worth telling."""
MOST_VALUES = 0.3
"""Nor rows that have so many different ones for each element."""
_SAMPLE = 4096
_CHUNK = 1 << 18
_ROTATED = {torch.float64, torch.float32, torch.float16, torch.bfloat16}


def bytes_of(tensor: Tensor) -> Bytes:
    """The bytes of a tensor in row-major order, little endian, (elements · element size,)."""
    flat = tensor.detach().resolve_conj().resolve_neg().contiguous().reshape(-1)
    found: Bytes = flat.view(torch.uint8).numpy() if flat.numel() else np.zeros(0, np.uint8)
    return found


def tensor_of(content: Bytes, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """The inverse of `bytes_of`."""
    if not len(content):
        return torch.zeros(shape, dtype=dtype)
    return torch.from_numpy(content).view(dtype).reshape(shape)


def columns_of(shape: tuple[int, ...]) -> int:
    """Columns of the matrix as which a tensor is seen: its rows are the slices along the first axis."""
    return max(1, int(np.prod(shape[1:] if len(shape) > 1 else shape, dtype=np.int64)))


@dataclass(frozen=True)
class Palette:
    """The different values of each row of a tensor's elements, and each element's place among its row's.

    values: one row's after another's, each ascending, as bytes; counts: how many each row has, less one;
    indices: (elements,).
    """

    values: Bytes
    counts: Bytes
    indices: Bytes


def palette_of(content: Bytes, dtype: torch.dtype, rows: int) -> Palette | None:
    """The palettes of the elements in so many rows.

    None where a row has more than 256 different values, for elements of one byte in one row or of more than eight, and
    for bytes of which rows have so many that nothing is gained.
    """
    size = dtype.itemsize
    if size not in WORDS or (size == 1 and rows == 1):
        return None
    keys = _ordered(content.view(f"<u{size}"), dtype).reshape(rows, -1)
    if size == 1:
        return _palette_of_bytes(keys, dtype)
    if len(np.unique(keys[0, :: max(1, keys.shape[1] // _SAMPLE)])) > PALETTE:
        return None
    order = np.argsort(keys, axis=1, kind="stable")
    ascending = np.take_along_axis(keys, order, 1)
    new = np.ones(keys.shape, bool)
    new[:, 1:] = ascending[:, 1:] != ascending[:, :-1]
    places = np.cumsum(new, axis=1) - 1
    if places.max() >= PALETTE:
        return None
    indices = np.empty(keys.shape, np.uint8)
    np.put_along_axis(indices, order, places.astype(np.uint8), 1)
    values = _unordered(ascending[new], dtype).view(np.uint8)
    return Palette(values, places[:, -1].astype(np.uint8), indices.reshape(-1))


def _palette_of_bytes(keys: Bytes, dtype: torch.dtype) -> Palette | None:
    """The same for elements of one byte, (rows, columns)."""
    present = _present(keys)
    told = int(present.sum())
    spans = 256 - present.argmax(1) - present[:, ::-1].argmax(1)
    if told > LEAST_GAPS * int(spans.sum()) or told > MOST_VALUES * keys.size:
        return None
    places = (np.cumsum(present, axis=1) - 1).astype(np.uint8)
    indices = np.take_along_axis(places, keys.astype(np.intp), 1)
    values = np.nonzero(present)[1].astype(np.uint8)
    return Palette(_unordered(values, dtype), places[:, -1], indices.reshape(-1))


@compiled
def _present(keys: Bytes) -> NDArray[np.bool_]:
    """Which bytes each row of a matrix holds, (rows, 256)."""
    found = np.zeros((len(keys), 256), np.bool_)
    for row in range(keys.shape[0]):
        for column in range(keys.shape[1]):
            found[row, keys[row, column]] = True
    return found


def _ordered(words: NDArray[np.unsignedinteger], dtype: torch.dtype) -> NDArray[np.unsignedinteger]:
    """Unsigned integers in the order of the values whose bits `words` are."""
    top = words.dtype.type(1 << 8 * words.itemsize - 1)
    if dtype.is_floating_point:
        return np.where(words & top, ~words, words | top)
    return words ^ top if dtype.is_signed else words


def _unordered(keys: NDArray[np.unsignedinteger], dtype: torch.dtype) -> NDArray[np.unsignedinteger]:
    """The inverse of `_ordered`."""
    top = keys.dtype.type(1 << 8 * keys.itemsize - 1)
    if dtype.is_floating_point:
        return np.where(keys & top, keys ^ top, ~keys)
    return keys ^ top if dtype.is_signed else keys


def from_palette(palette: Palette, size: int) -> Bytes:
    """The inverse of `palette_of`; IndexError where an index has no value in its row."""
    counts = palette.counts.astype(np.int64) + 1
    indices = palette.indices.reshape(len(counts), -1)
    if bool((indices >= counts[:, None]).any()):
        raise IndexError("an index has no value")
    starts, values = np.cumsum(counts) - counts, palette.values.view(f"<u{size}")
    found = np.empty(indices.shape, values.dtype)
    if len(counts) == 1:
        np.take(values, indices, out=found)
    else:  # a few rows at a time: indices of 64 bits would take eight times the tensor
        rows = max(1, _CHUNK // indices.shape[1])
        for first in range(0, len(counts), rows):
            chunk = slice(first, first + rows)
            found[chunk] = values[indices[chunk] + starts[chunk, None]]
    return found.reshape(-1).view(np.uint8)


@dataclass(frozen=True)
class Scales:
    """Factors of the slices of a tensor along one axis. values: float32, each another; places: which each slice has."""

    values: NDArray[np.float32]
    places: Bytes
    axis: int


def palette_of_coded(coded: CodedTensor) -> Palette:
    """The one palette of a tensor that is known to have few values, without those that no element has."""
    values, indices = coded.values.numpy().astype("<f4"), coded.indices.numpy().reshape(-1)
    used = np.unique(indices)
    order = used[np.argsort(_ordered(values[used].view("<u4"), torch.float32), kind="stable")]
    place = np.zeros(PALETTE, np.uint8)
    place[order] = np.arange(len(order), dtype=np.uint8)
    return Palette(values[order].view(np.uint8), np.array([len(order) - 1], np.uint8), place[indices])


def scales_of(coded: CodedTensor) -> Scales | None:
    """The factors of the slices of a tensor that is known to have few values."""
    if coded.scale is None or coded.axis is None:
        return None
    bits, places = np.unique(coded.scale.numpy().view("<u4"), return_inverse=True)
    return Scales(bits.view("<f4"), places.astype(np.uint8), coded.axis)


def multiplied(content: Bytes, shape: tuple[int, ...], scales: Scales) -> Bytes:
    """float32 elements times the factors of their slices, rounded to the nearest float32 as IEEE 754 says."""
    factors = scales.values[scales.places].reshape([-1 if a == scales.axis else 1 for a in range(len(shape))])
    with np.errstate(over="ignore", invalid="ignore"):
        found: NDArray[np.float32] = content.view("<f4").reshape(shape) * factors
    return np.ascontiguousarray(found, dtype="<f4").reshape(-1).view(np.uint8)


def split(content: Bytes, dtype: torch.dtype) -> list[Bytes]:
    """The planes of a tensor's bytes, least significant first."""
    size = dtype.itemsize
    if dtype in _ROTATED:
        words: NDArray[np.unsignedinteger] = content.view(f"<u{size}")
        content = (words << 1 | words >> (8 * size - 1)).view(np.uint8)
    return [np.ascontiguousarray(content[plane::size]) for plane in range(size)]


def join(planes: list[Bytes], dtype: torch.dtype) -> Bytes:
    """The inverse of `split`."""
    content = np.stack(planes, axis=1).reshape(-1)
    if dtype in _ROTATED:
        words: NDArray[np.unsignedinteger] = content.view(f"<u{len(planes)}")
        content = (words >> 1 | words << (8 * len(planes) - 1)).view(np.uint8)
    return content
