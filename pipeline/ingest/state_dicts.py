"""The sets of tensors in a checkpoint, found by what they are, and which of them a network is loaded from."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import CompressError, UnsafeInputError
from .removals import Removals
from .torch_file import MAX_RATIO

MAX_DEPTH = 4
MAX_SETS = 64
MAIN_KEYS = (
    "", "state_dict", "model", "model_state_dict", "net", "network", "module", "params", "weights", "generator",
)  # fmt: skip
"""Under which trainers keep the network that they train; "" is the file itself."""
_AVERAGED = re.compile(r"(?<![A-Za-z])(ema|EMA|Ema|swa|SWA|avg|averaged?|shadow)(?![a-z])|(?<=[a-z])EMA")


_Set = tuple[tuple[str, ...], dict[str, Any]]
"""The keys that lead to a state dict, and its entries."""


@dataclass(frozen=True)
class Checkpoint:
    """What a weight file holds. sets: tensors by name, of each state dict by its key; others: what else is there.

    removals: what was taken out of the network that a factory makes, before the tensors fit.
    """

    path: Path
    sets: Mapping[str, Mapping[str, Any]]
    others: tuple[str, ...] = field(default=())
    removals: Removals = ()


def is_averaged(key: str) -> bool:
    """Whether a key names the moving average of a network's weights (EMA, SWA)."""
    return _AVERAGED.search(key) is not None


def find_state_dicts(found: Any, path: Path) -> Checkpoint:
    """Every state dict in what a file holds; CompressError when there is none.

    A state dict is a mapping of text to tensors (a module, in a trusted pickle, counts as its own). What belongs to
    an optimizer is none.
    """
    if not isinstance(found, Mapping | nn.Module):
        raise CompressError(
            f"weights: {path} holds a {type(found).__name__}, not a state dict (tensors by name)"
        )
    sets: dict[str, Mapping[str, Any]] = {}
    for keys, entries in _Search().sets(found, 0):
        sets.setdefault(".".join(keys), entries)
    if not sets:
        raise _nothing(found, path)
    others = () if "" in sets else tuple(_others(found, sets))
    return Checkpoint(path, sets, others)


def _entries(found: Mapping[Any, Any] | nn.Module) -> dict[Any, Any]:
    """The entries as a plain dict: a pickle can hide a mapping's methods behind attributes of their names."""
    if isinstance(found, nn.Module):
        return dict(found.state_dict())
    return dict(dict.items(found)) if isinstance(found, dict) else dict(found.items())


@dataclass
class _Search:
    """Finds state dicts. A mapping that many others share is gone through once: shared ones multiply at each level."""

    known: dict[tuple[int, int], tuple[object, list[_Set]]] = field(default_factory=dict)

    def sets(self, found: Mapping[Any, Any] | nn.Module, depth: int) -> list[_Set]:
        """The first 64 state dicts in `found`, each with the keys that lead to it."""
        key = id(found), depth
        if key not in self.known:
            self.known[key] = found, self._searched(found, depth)
        return self.known[key][1]

    def _searched(self, found: Mapping[Any, Any] | nn.Module, depth: int) -> list[_Set]:
        entries = _entries(found)
        if depth > MAX_DEPTH or "param_groups" in entries:
            return []
        inside: list[_Set] = []
        for key, value in entries.items():
            if len(inside) >= MAX_SETS:
                break
            if isinstance(key, str) and isinstance(value, Mapping | nn.Module):
                inside += [((key, *path), each) for path, each in self.sets(value, depth + 1)]
        if inside:
            return inside[:MAX_SETS]
        tensors = any(isinstance(value, Tensor) for value in entries.values())
        return [((), entries)] if tensors and all(isinstance(key, str) for key in entries) else []


def _others(found: Mapping[Any, Any] | nn.Module, sets: Mapping[str, Any]) -> Iterator[str]:
    for key, value in _entries(found).items():
        if not any(name == key or name.startswith(f"{key}.") for name in sets):
            yield f"{str(key)[:60]} ({type(value).__name__})"


def _nothing(found: Mapping[Any, Any] | nn.Module, path: Path) -> CompressError:
    entries = _entries(found)
    holds = "it is empty"
    if entries:
        key, value = next(iter(entries.items()))
        holds = f"the entry {str(key)[:80]!r} is a {type(value).__name__}"
    return CompressError(
        f"weights: {path} holds no state dict (tensors by name, or such under a key as state_dict or model): {holds}"
    )


def plain_tensors(entries: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """The tensors of a state dict without anything that hangs on them.

    CompressError names an entry that is no tensor, or a tensor that has no plain values; UnsafeInputError one that
    claims far more than is stored.
    """
    plain = {}
    for name, value in entries.items():
        if not isinstance(value, Tensor):
            raise CompressError(
                f"weights: {path} holds no state dict (tensors by name): the entry {name[:80]!r} is a"
                f" {type(value).__name__}"
            )
        plain[name] = plain_tensor(name, value, path)
    return plain


def plain_tensor(name: str, tensor: Tensor, path: Path) -> Tensor:
    """`tensor` as torch itself has it, once it is known to be dense, here, and as large as it says."""
    tensor = Tensor.detach(tensor)
    if problem := _not_plain(tensor):
        raise CompressError(f"weights: {path}: tensor {name[:80]!r} {problem}")
    claimed = tensor.numel() * tensor.element_size()
    stored = tensor.untyped_storage().nbytes()
    if claimed > MAX_RATIO * max(stored, 1):  # a view with stride 0 takes the memory once it is read
        raise UnsafeInputError(
            f"{path}: tensor {name[:80]!r} claims {claimed:,} bytes and stores {stored:,}; no checkpoint does that"
        )
    return tensor


def _not_plain(tensor: Tensor) -> str | None:
    if tensor.is_nested:
        return "is nested; store tensors of one shape each"
    if tensor.layout != torch.strided:
        return "is sparse; store it dense"
    if tensor.is_quantized:
        return "is quantized by torch; store it as float (dequantize()): `quantize` makes INT8 of it again"
    if tensor.device.type != "cpu":
        return f"is on the device {tensor.device.type} and has no values here; save it from the CPU"
    if tensor.dim() > 64:
        return f"has {tensor.dim()} dimensions; torch takes 64"
    if "float4" in str(tensor.dtype) or re.search(r"\b(uint|int)[1-7]$", str(tensor.dtype)):
        return f"is {str(tensor.dtype).removeprefix('torch.')}, packed values that torch cannot turn into float32"
    return None
