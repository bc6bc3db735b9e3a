"""Reductions of ONNX as functions of torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from torch import Tensor

from .kinds import Function, Given, Sizes


def reduce(kind: str) -> Callable[[Given], Function]:
    """Build a reduction of one kind, such as `Mean`, over constant axes."""
    return lambda given: partial(
        _reduced,
        kind=kind,
        axes=given.sizes(1, "axes"),
        keepdims=bool(given.get("keepdims", 1)),
        noop=bool(given.get("noop_with_empty_axes", 0)),
    )


def _reduced(batch: int, x: Tensor, kind: str, axes: Sizes | None, keepdims: bool, noop: bool) -> Tensor:
    dims = [d % x.dim() for d in axes.values] if axes is not None and axes.values else []
    if not dims and noop:
        return x
    dims = dims or list(range(x.dim()))
    if not dims:
        return x
    if kind == "Prod":
        for d in sorted(dims, reverse=True):
            x = x.prod(d, keepdim=keepdims)
        return x
    return REDUCTIONS[kind](x, dims, keepdims)


REDUCTIONS: Mapping[str, Callable[[Tensor, list[int], bool], Tensor]] = {
    "Mean": lambda x, d, k: x.mean(d, keepdim=k),
    "Sum": lambda x, d, k: x.sum(d, keepdim=k, dtype=x.dtype),
    "Max": lambda x, d, k: x.amax(d, keepdim=k),
    "Min": lambda x, d, k: x.amin(d, keepdim=k),
    "L1": lambda x, d, k: x.abs().sum(d, keepdim=k),
    "L2": lambda x, d, k: x.square().sum(d, keepdim=k).sqrt(),
    "SumSquare": lambda x, d, k: x.square().sum(d, keepdim=k),
    "LogSum": lambda x, d, k: x.sum(d, keepdim=k).log(),
    "LogSumExp": lambda x, d, k: x.logsumexp(d, keepdim=k),
}
