"""A factory's network without what a weight file says was removed, once that is known to be possible and harmless."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ...calibration.named import describe
from ...errors import CompressError
from ...passes.channels.removal import Removal, removed
from .baked import bake_in
from .removal_fit import of_channels, of_children, of_sizes, of_skipped
from .removals import Removals

NAME_THE_FACTORY = "name the factory, with its args, that the weights were made with"
SLACK = 4
"""A smaller network may make so many times the elements of the whole one: attention has kernels that make more."""


def without_removed(module: nn.Module, removals: Removals, path: Path) -> nn.Module:
    """A copy of `module` without what `removals`, of the file `path`, take out one after the other; itself for none.

    Its computed weights are baked in, as they were when the file was made. CompressError names the file, and the layer
    at which it does not fit.
    """
    if removals:
        bake_in(module)
    for number, record in enumerate(removals, 1):
        which = f"weights: {path}: removal {number} of {len(removals)}"
        _require_none(which, of_children(record, module))
        module = removed(module, Removal(children=record.children))
        _require_none(which, of_channels(record, module))
        _require_none(which, of_skipped(record, module))
        module = removed(module, replace(record.removal(), children={}))
        _require_none(which, of_sizes(record, module))
    return module


def _require_none(which: str, problems: Iterator[str]) -> None:
    if problem := next(problems, None):
        raise CompressError(f"{which} does not fit the network: {problem}; {NAME_THE_FACTORY}")


def require_no_larger(smaller: nn.Module, whole: nn.Module, inputs: tuple[Tensor, ...], path: Path) -> None:
    """CompressError, naming the file, unless the network without what was removed runs, and makes no more than whole.

    A removal changes nothing but sizes; what those are for that layers of a user's own hold, only they know.
    """
    if smaller is whole:
        return
    try:
        with torch.no_grad(), _Made(None) as made:
            whole(*inputs)
    except Exception:  # of forward(), at these inputs: whoever runs the network next says so
        return
    try:
        with torch.no_grad(), _Made(SLACK * made.elements):
            smaller(*inputs)
    except _MoreError as error:
        raise CompressError(
            f"weights: {path}: without what was removed the network computes more than {SLACK} times what it does"
            " whole, so that the file was not made by edgepress"
        ) from error
    except Exception as error:
        raise CompressError(
            f"weights: {path}: without what was removed the network does not run: {describe(error)}; {NAME_THE_FACTORY}"
        ) from error


class _MoreError(Exception):
    """More elements were made than may be."""


class _Made(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the elements of all tensors that operators return, and ends it at `most`."""

    def __init__(self, most: int | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.most, self.elements = most, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.elements += sum(each.numel() for each in tree_leaves(result) if isinstance(each, Tensor))
        if self.most is not None and self.elements > self.most:
            raise _MoreError
        return result
