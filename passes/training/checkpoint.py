"""Training checkpoints: one safetensors file that is complete or not there, and nothing in it that could run code."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ...errors import CompressError


@dataclass(frozen=True)
class Checkpoint:
    """Where a training stands: tensors by name, and JSON values."""

    tensors: dict[str, Tensor]
    values: dict[str, Any]


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write the checkpoint in place of an older one; a process killed meanwhile leaves the older one."""
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    # Names may share one tensor's memory (tied weights); a file holds each once.
    tensors = {
        name: tensor.detach().cpu().clone().contiguous() for name, tensor in checkpoint.tensors.items()
    }
    save_file(tensors, unfinished, {"values": json.dumps(checkpoint.values)})
    with unfinished.open("rb") as written:
        os.fsync(written.fileno())
    unfinished.replace(path)


def load(path: Path) -> Checkpoint | None:
    """The checkpoint, or None when there is none. Raises CompressError for a file that is not one."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            values = json.loads(file.metadata()["values"])
            return Checkpoint({name: file.get_tensor(name) for name in file.keys()}, values)  # noqa: SIM118
    except (SafetensorError, OSError, TypeError, KeyError, ValueError) as error:
        raise CompressError(
            f"{path}: is not a training checkpoint ({error}); delete it to train from the start"
        ) from error


def with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under longer names."""
    return {prefix + name: tensor for name, tensor in tensors.items()}


def without_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names start with `prefix`, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
