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

from ...model import CodedTensor
from .rans import Bytes

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


@dataclass(frozen=True)
class Palette:
    """The different values of each row of a tensor's elements, and each element's place among its row's.

    values: one row's after another's, each ascending as integers, as bytes; counts: how many each row has, less one;
    indices: (elements,).
    """

    values: Bytes
    counts: Bytes
    indices: Bytes


def palette_of(content: Bytes, size: int, rows: int) -> Palette | None:
    """The palettes of elements of `size` bytes in so many rows.

    None where a row has more than 256 different values, and for elements of one byte in one row or of more than eight.
    """
    if size not in WORDS or (size == 1 and rows == 1):
        return None
    words = content.view(f"<u{size}").reshape(rows, -1)
    if len(np.unique(words[0, :: max(1, words.shape[1] // _SAMPLE)])) > PALETTE:
        return None
    order = np.argsort(words, axis=1, kind="stable")
    ascending = np.take_along_axis(words, order, 1)
    new = np.ones(words.shape, bool)
    new[:, 1:] = ascending[:, 1:] != ascending[:, :-1]
    places = np.cumsum(new, axis=1) - 1
    if places.max() >= PALETTE:
        return None
    indices = np.empty(words.shape, np.uint8)
    np.put_along_axis(indices, order, places.astype(np.uint8), 1)
    return Palette(ascending[new].view(np.uint8), places[:, -1].astype(np.uint8), indices.reshape(-1))


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


def palette_of_coded(coded: CodedTensor) -> tuple[Palette, Scales | None]:
    """The one palette of a tensor that is known to have few values, and its factors.

    Values that no element has are left out.
    """
    values, indices = coded.values.numpy().astype("<f4"), coded.indices.numpy().reshape(-1)
    used = np.unique(indices)
    order = used[np.argsort(values[used].view("<u4"), kind="stable")]
    place = np.zeros(PALETTE, np.uint8)
    place[order] = np.arange(len(order), dtype=np.uint8)
    count = np.array([len(order) - 1], np.uint8)
    palette = Palette(values[order].view(np.uint8), count, place[indices])
    if coded.scale is None or coded.axis is None:
        return palette, None
    factors, places = np.unique(coded.scale.numpy().astype("<f4"), return_inverse=True)
    return palette, Scales(factors, places.astype(np.uint8), coded.axis)


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
