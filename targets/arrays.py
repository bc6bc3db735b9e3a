"""Arrays in an .npz file that somebody else made: no byte is taken before all sizes that it declares were looked at."""

from __future__ import annotations

import zipfile
from math import prod
from typing import IO, Any

import numpy as np

MAX_BYTES = 4 << 30
"""Most bytes of all arrays of a file together."""
MAX_ARRAYS = 10_000


def read_arrays(file: IO[bytes], limit: int = MAX_BYTES) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays of a file as `numpy.savez` writes it, by name; ValueError for any other file.

    Members are stored and not compressed, so that none is larger than the file; an array has as many bytes as its
    header tells; nothing is unpickled.
    """
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if len(members) > MAX_ARRAYS or sum(member.file_size for member in members) > limit:
            raise ValueError(f"{len(members):,} arrays, more than {limit:,} bytes, or both")
        if wrong := [m for m in members if m.compress_type != zipfile.ZIP_STORED or m.flag_bits & 1]:
            raise ValueError(f"{wrong[0].filename[:80]!r} is compressed or encrypted; it is sent as it is")
        return {member.filename.removesuffix(".npy"): _array(archive, member) for member in members}


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray[Any, Any]:
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"{member.filename[:80]!r} has the unknown .npy version {version}")
        header = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        shape, fortran, dtype = header(file)
        if dtype.hasobject:
            raise ValueError(f"{member.filename[:80]!r}: Object arrays cannot be loaded")
        if len(shape) > 32 or any(size < 0 for size in shape):
            raise ValueError(f"{member.filename[:80]!r} has a shape that no array has")
        wanted = prod(shape) * dtype.itemsize
        content = file.read(wanted + 1) if wanted <= member.file_size else b""
        if len(content) != wanted:
            raise ValueError(f"{member.filename[:80]!r} declares {wanted:,} bytes, and other are there")
    array = np.frombuffer(content, dtype) if wanted else np.empty(prod(shape), dtype)
    return array.reshape(shape, order="F" if fortran else "C").copy(order="F" if fortran else "C")
