"""Digests of engines and of what they compute: the same files, the same bits."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np


def files_digest(paths: Iterable[Path]) -> str:
    """SHA-256 of an engine: of its files' digests, one a line."""
    lines = []
    for path in paths:
        with path.open("rb") as file:
            lines.append(hashlib.file_digest(file, "sha256").hexdigest())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def outputs_digest(outputs: Sequence[np.ndarray[Any, Any]]) -> str:
    """SHA-256 of arrays, bit for bit, with their types and shapes."""
    digest = hashlib.sha256()
    for array in outputs:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
