"""What torch's exporter to ONNX knows of operators, gathered once in a process and not at every export."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import Any

import torch


@contextmanager
def gathered_once() -> Iterator[None]:
    """Let `torch.onnx.export` start from what an earlier export has gathered.

    By itself it reads the source of some 500 functions anew each time, which takes a quarter of the export of a small
    network. What one export is given besides, such as translations of its own, no other one sees.
    """
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    name = "from_torchlib"  # the exporter takes no registry from its callers
    own, gather = vars(ONNXRegistry)[name], getattr(ONNXRegistry, name)
    setattr(ONNXRegistry, name, staticmethod(partial(_copied, gather)))
    try:
        yield
    finally:
        setattr(ONNXRegistry, name, own)


def _copied(gather: Any, **opset: int) -> Any:
    kept = _gathered(gather, len(torch._C._dispatch_get_all_op_names()), **opset)
    registry = copy.copy(kept)
    registry.functions = {target: list(found) for target, found in kept.functions.items()}
    return registry


@lru_cache(maxsize=4)
def _gathered(gather: Any, operators: int, **opset: int) -> Any:
    """The registry. operators: how many there are; a library that was loaded since, as torchvision, brings its own."""
    return gather(**opset)
