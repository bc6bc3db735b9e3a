"""`.safetensors` files: their header checked before torch allocates anything that it names."""

from __future__ import annotations

import json
import struct
from math import prod
from pathlib import Path
from typing import Any

from torch import Tensor

from ...errors import CompressError

MAX_DIMENSIONS = 64  # what torch's operators take
MAX_HEADER_BYTES = 100 * 10**6  # the format's own limit


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of the file by name, and its metadata; CompressError says what is wrong with it."""
    from safetensors.torch import load_file

    try:
        header = _header(path)
        _check_shapes(header)
        return dict(load_file(path)), header.get("__metadata__") or {}
    except CompressError as error:
        raise CompressError(f"weights: {path}: {error}") from None
    except Exception as error:  # safetensors and torch raise many types for a header that lies
        text = " ".join(str(error).split())[:200] or type(error).__name__
        raise CompressError(
            f"weights: {path} is not a readable .safetensors file ({text}); it may be cut short or have"
            f" another format"
        ) from error


def _header(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8).ljust(8, b"\0"))
        found = json.loads(file.read(length)) if length <= min(MAX_HEADER_BYTES, path.stat().st_size) else {}
    return found if isinstance(found, dict) else {}


def _check_shapes(header: dict[str, Any]) -> None:
    """CompressError for a tensor of more dimensions or elements than torch can hold; safetensors checks the rest."""
    for name, entry in header.items():
        shape = entry.get("shape") if isinstance(entry, dict) else None
        if name == "__metadata__" or not isinstance(shape, list):
            continue
        if len(shape) > MAX_DIMENSIONS:
            raise CompressError(
                f"tensor {name[:80]!r} has {len(shape)} dimensions; torch takes {MAX_DIMENSIONS}"
            )
        sizes = [size for size in shape if isinstance(size, int)]
        if prod(max(size, 1) for size in sizes) >= 2**60:
            raise CompressError(f"tensor {name[:80]!r} has the shape {shape}, which no memory holds")
