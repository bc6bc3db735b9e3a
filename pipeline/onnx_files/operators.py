"""Operators that are converted here and not by onnx2torch: what is constant about one is fixed in its module.

onnx2torch reads shapes, axes and slices from tensors while the network runs, which `torch.export` cannot follow, and
lacks what newer opsets have. `OWN_KINDS` lists what is built instead, one function each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .resize import resize

if TYPE_CHECKING:
    import onnx

OWN = "Edgepress"
"""Before an operator's name: it is converted here."""
_OPSETS = range(1, 18)
Function = Callable[..., "Tensor | tuple[Tensor, ...]"]
"""(batch, *tensors) -> what the operator returns."""


@dataclass(frozen=True)
class Sizes:
    """Whole numbers, some of which are to be multiplied by the batch."""

    values: tuple[int, ...]
    by_batch: tuple[bool, ...] = ()

    def at(self, batch: int) -> list[int]:
        """The numbers for a batch."""
        if not self.by_batch:
            return list(self.values)
        return [v * batch if grows else v for v, grows in zip(self.values, self.by_batch, strict=True)]


@dataclass(frozen=True)
class Given:
    """What a node says of itself: attributes, and its inputs that are known."""

    attributes: Mapping[str, Any]
    constants: Mapping[int, np.ndarray[Any, Any]]
    outputs: int

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute."""
        return self.attributes.get(name, default)

    def sizes(self, index: int, attribute: str = "") -> Sizes | None:
        """The whole numbers of an input, or of the attribute that older opsets have instead."""
        if f"sizes_{index}" in self.attributes:
            grows = tuple(bool(v) for v in self.attributes[f"by_batch_{index}"])
            return Sizes(tuple(self.attributes[f"sizes_{index}"]), grows)
        if index in self.constants:
            return Sizes(tuple(int(v) for v in self.constants[index].reshape(-1)))
        found = self.attributes.get(attribute)
        return None if found is None else Sizes(tuple(int(v) for v in found))

    def tensor(self, index: int) -> Tensor | None:
        """A constant input."""
        found = self.constants.get(index)
        return None if found is None else torch.from_numpy(found.copy())


@dataclass(frozen=True)
class Kind:
    """How one operator is built. known: which inputs must be constant, from an index on or by index."""

    build: Callable[[Given], Function | nn.Module]
    known: frozenset[int] = frozenset()
    known_from: int = 99
    takes: Callable[[onnx.NodeProto, set[str]], bool] = lambda node, stored: True

    def must_know(self, index: int) -> bool:
        """Whether the input at `index` is fixed in the module."""
        return index in self.known or index >= self.known_from


class Operator(nn.Module):
    """One ONNX operator as a function; `by_batch`: its last input is only asked for its batch."""

    def __init__(self, function: Function, by_batch: bool) -> None:
        super().__init__()
        self.function, self.by_batch = function, by_batch

    def forward(self, *tensors: Tensor) -> Any:
        """The operator's outputs."""
        if not self.by_batch:
            return self.function(1, *tensors)
        return self.function(tensors[-1].shape[0], *tensors[:-1])


@cache
def register() -> None:
    """Make onnx2torch know the operators of `OWN_KINDS`."""
    from onnx2torch.node_converters.registry import add_converter

    for op_type in OWN_KINDS:
        for version in _OPSETS:
            add_converter(operation_type=OWN + op_type, version=version)(_converted)


def _converted(node: Any, graph: Any) -> Any:
    from onnx2torch.utils.common import OnnxMapping, OperationConverterResult

    kind = OWN_KINDS[node.operation_type.removeprefix(OWN)]
    names = list(node.input_values)
    by_batch = any(name.startswith("sizes_") for name in node.attributes)
    source = [names.pop()] if by_batch else []
    constants = {
        index: graph.initializers[name].to_numpy()
        for index, name in enumerate(names)
        if kind.must_know(index) and name in graph.initializers
    }
    built = kind.build(Given(node.attributes, constants, len(node.output_values)))
    module = built if isinstance(built, nn.Module) else Operator(built, by_batch)
    read = [name for index, name in enumerate(names) if name and not kind.must_know(index)]
    return OperationConverterResult(module, OnnxMapping(inputs=(*read, *source), outputs=node.output_values))


def _reduce(kind: str) -> Callable[[Given], Function]:
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
    return _REDUCTIONS[kind](x, dims, keepdims)


_REDUCTIONS: Mapping[str, Callable[[Tensor, list[int], bool], Tensor]] = {
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


def _reshape(given: Given) -> Function:
    wanted, zero = given.sizes(1, "shape"), bool(given.get("allowzero", 0))
    assert wanted is not None

    def apply(batch: int, x: Tensor) -> Tensor:
        sizes = wanted.at(batch)
        kept = [i for i, value in enumerate(wanted.values) if value == 0 and not zero]
        return x.reshape([x.shape[i] if i in kept else size for i, size in enumerate(sizes)])

    return apply


def _flatten(given: Given) -> Function:
    axis = int(given.get("axis", 1))

    def apply(batch: int, x: Tensor) -> Tensor:
        return x.flatten(1) if axis % max(x.dim(), 1) == 1 and x.dim() > 1 else x.reshape(_rows(x, axis), -1)

    return apply


def _rows(x: Tensor, axis: int) -> int:
    rows = 1
    for size in x.shape[: axis + x.dim() if axis < 0 else axis]:
        rows = rows * size
    return rows


def _expand(given: Given) -> Function:
    wanted = given.sizes(1)
    assert wanted is not None

    def apply(batch: int, x: Tensor) -> Tensor:
        sizes: list[int] = wanted.at(batch)
        missing = x.dim() - len(sizes)
        sizes = [1] * missing + sizes
        new = len(sizes) - x.dim()
        ones = [1] * max(missing, 0) + [v == 1 and not g for v, g in _marked(wanted)]
        return x.expand(
            [-1 if one and i >= new else s for i, (s, one) in enumerate(zip(sizes, ones, strict=True))]
        )

    return apply


def _marked(sizes: Sizes) -> list[tuple[int, bool]]:
    return list(zip(sizes.values, sizes.by_batch or (False,) * len(sizes.values), strict=True))


def _slice(given: Given) -> Function:
    starts, ends, axes, steps = (
        given.sizes(index, name) for index, name in enumerate(("starts", "ends", "axes", "steps"), 1)
    )
    assert starts is not None and ends is not None

    def apply(batch: int, x: Tensor) -> Tensor:
        first, last = starts.at(batch), ends.at(batch)
        where = axes.values if axes is not None else range(len(first))
        for axis, start, end, step in zip(
            where, first, last, steps.values if steps else [1] * len(first), strict=True
        ):
            x = _sliced(x, axis % x.dim(), start, end, step)
        return x

    return apply


def _sliced(x: Tensor, axis: int, start: int, end: int, step: int) -> Tensor:
    if step > 0:
        return x[(slice(None),) * axis + (slice(start, end, step),)]
    taken = range(*slice(start, end, step).indices(x.shape[axis]))
    return x.index_select(axis, torch.tensor(list(taken), dtype=torch.int64, device=x.device))


def _split(given: Given) -> Function:
    axis, sizes = int(given.get("axis", 0)), given.sizes(1, "split")

    def apply(batch: int, x: Tensor) -> tuple[Tensor, ...]:
        parts = sizes.at(batch) if sizes is not None else -(-x.shape[axis] // given.outputs)
        found = torch.split(x, parts, dim=axis)
        return found if given.outputs > 1 else found[0]  # type: ignore[return-value]

    return apply


def _squeeze(given: Given) -> Function:
    axes = given.sizes(1, "axes")

    def apply(batch: int, x: Tensor) -> Tensor:
        return x.squeeze() if axes is None else x.squeeze(tuple(a % x.dim() for a in axes.values))

    return apply


def _unsqueeze(given: Given) -> Function:
    axes = given.sizes(1, "axes")
    assert axes is not None

    def apply(batch: int, x: Tensor) -> Tensor:
        rank = x.dim() + len(axes.values)
        for axis in sorted(a % rank for a in axes.values):
            x = x.unsqueeze(axis)
        return x

    return apply


_PAD_MODES = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}


def _pad(given: Given) -> Function:
    pads, axes = given.sizes(1, "pads"), given.sizes(3)
    mode = _PAD_MODES[given.get("mode", "constant")]
    filling = given.constants[2].item() if 2 in given.constants else given.get("value", 0.0)
    assert pads is not None

    def apply(batch: int, x: Tensor) -> Tensor:
        where = [a % x.dim() for a in axes.values] if axes is not None else list(range(x.dim()))
        both = {a: (pads.values[i], pads.values[i + len(where)]) for i, a in enumerate(where)}
        first = min((a for a, p in both.items() if p != (0, 0)), default=x.dim())
        if first == x.dim():
            return x
        if mode != "constant":  # torch takes pairs for all axes but the first one or two
            first = min(first, 2 if x.dim() > 2 else 1)
        flat = [size for axis in reversed(range(first, x.dim())) for size in both.get(axis, (0, 0))]
        return F.pad(x, flat, mode, filling) if mode == "constant" else F.pad(x, flat, mode)

    return apply


def _clip(given: Given) -> Function | nn.Module:
    low, high = (_bound(given, index, name) for index, name in ((1, "min"), (2, "max")))
    if low is None and high is None:
        return nn.Identity()
    if low == 0 and high is None:
        return nn.ReLU()
    if low == 0 and high == 6:
        return nn.ReLU6()
    return lambda batch, x: x.clamp(low, high)


def _bound(given: Given, index: int, attribute: str) -> Any:
    return given.constants[index].item() if index in given.constants else given.get(attribute)


def _gather(given: Given) -> Function:
    """Constant indices: one is a slice, several are a selection."""
    axis, indices = int(given.get("axis", 0)), given.constants[1].astype(np.int64)
    if indices.ndim == 0:
        return lambda batch, x: x.select(axis, int(indices))

    def apply(batch: int, x: Tensor) -> Tensor:
        a = axis % x.dim()
        chosen = torch.tensor(indices.reshape(-1) % x.shape[a], device=x.device)
        return x.index_select(a, chosen).reshape(*x.shape[:a], *indices.shape, *x.shape[a + 1 :])

    return apply


def _tile(given: Given) -> Function:
    repeats = given.sizes(1)
    assert repeats is not None
    return lambda batch, x: x.repeat(repeats.at(batch))


def _constant_of_shape(given: Given) -> Function:
    sizes, filling = given.sizes(0), given.get("value")
    value = torch.zeros(1) if filling is None else filling.to_torch()
    assert sizes is not None
    return lambda batch: torch.full(sizes.at(batch), value.item(), dtype=value.dtype)


def _range(given: Given) -> Function:
    start, limit, step = (given.sizes(index) for index in range(3))
    assert start is not None and limit is not None and step is not None
    return lambda batch: torch.arange(start.at(batch)[0], limit.at(batch)[0], step.at(batch)[0])


def _layer_norm(given: Given) -> nn.Module:
    scale, bias = given.tensor(1), given.tensor(2)
    assert scale is not None
    module = nn.LayerNorm(tuple(scale.shape), eps=given.get("epsilon", 1e-5), bias=bias is not None)
    _fill(module, scale, bias)
    return module


def _group_norm(given: Given) -> nn.Module:
    """Opset 18 has a scale for each group, opset 21 for each channel: both are one for each channel here."""
    scale, bias, groups = given.tensor(1), given.tensor(2), int(given.get("num_groups"))
    assert scale is not None and bias is not None
    module = nn.GroupNorm(groups, len(scale), eps=given.get("epsilon", 1e-5))
    _fill(module, scale, bias)
    return module


def _rms_norm(given: Given) -> nn.Module:
    scale = given.tensor(1)
    assert scale is not None
    module = nn.RMSNorm(tuple(scale.shape), eps=given.get("epsilon", 1e-5))
    _fill(module, scale, None)
    return module


def _linear(given: Given) -> nn.Module:
    """x @ W for a constant W of shape (in, out)."""
    weight = given.tensor(1)
    assert weight is not None
    module = nn.Linear(weight.shape[0], weight.shape[1], bias=False)
    _fill(module, weight.T.contiguous(), None)
    return module


def _fill(module: Any, weight: Tensor, bias: Tensor | None) -> None:
    module.weight = nn.Parameter(weight)
    if bias is not None:
        module.bias = nn.Parameter(bias)


def _space_to_depth(given: Given) -> Function:
    size = int(given.get("blocksize"))

    def apply(batch: int, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        blocks = x.reshape(n, c, h // size, size, w // size, size)
        return blocks.permute(0, 3, 5, 1, 2, 4).reshape(n, c * size * size, h // size, w // size)

    return apply


def _triangle(given: Given) -> Function:
    diagonal, upper = int(given.constants[1]) if 1 in given.constants else 0, bool(given.get("upper", 1))
    return lambda batch, x: x.triu(diagonal) if upper else x.tril(diagonal)


def _grid_sample(given: Given) -> Function:
    mode = {"linear": "bilinear", "cubic": "bicubic"}.get(
        given.get("mode", "bilinear"), given.get("mode", "bilinear")
    )
    return lambda batch, x, grid: F.grid_sample(
        x, grid, mode, given.get("padding_mode", "zeros"), bool(given.get("align_corners", 0))
    )


def _global_max(batch: int, x: Tensor) -> Tensor:
    return x.amax(list(range(2, x.dim())), keepdim=True)


def _lp_normalization(given: Given) -> Function:
    axis, p = int(given.get("axis", -1)), int(given.get("p", 2))
    return lambda batch, x: x / x.norm(p, axis, keepdim=True)


def _resize(given: Given) -> Function:
    sizes, scales = given.sizes(3), given.constants.get(2)
    scale = None if scales is None or not scales.size else tuple(float(s) for s in scales.reshape(-1))
    whole = None if sizes is None or not sizes.values else sizes.values
    axes = None if given.get("axes") is None else tuple(given.get("axes"))
    return partial(resize, attributes=dict(given.attributes), scales=scale, sizes=whole, axes=axes)


def _upsample(given: Given) -> Function:
    scales = given.constants[1].reshape(-1) if 1 in given.constants else given.get("scales")
    old = {
        "mode": given.get("mode", "nearest"),
        "coordinate_transformation_mode": "asymmetric",
        "nearest_mode": "floor",
    }
    return partial(resize, attributes=old, scales=tuple(float(s) for s in scales), sizes=None, axes=None)


def _one(function: Callable[[Tensor], Tensor]) -> Callable[[Given], Function]:
    return lambda given: lambda batch, x: function(x)


def _stored_matrix(node: onnx.NodeProto, stored: set[str]) -> bool:
    return node.input[1] in stored


def _one_output(node: onnx.NodeProto, stored: set[str]) -> bool:
    return sum(bool(name) for name in node.output) == 1


def _row_major(node: onnx.NodeProto, stored: set[str]) -> bool:
    return "" not in node.output


OWN_KINDS: dict[str, Kind] = {
    **{f"Reduce{k}": Kind(_reduce(k), known_from=1) for k in (*_REDUCTIONS, "Prod")},
    "Reshape": Kind(_reshape, known_from=1),
    "Flatten": Kind(_flatten),
    "Expand": Kind(_expand, known_from=1),
    "Slice": Kind(_slice, known_from=1),
    "Split": Kind(_split, known_from=1, takes=_row_major),
    "Squeeze": Kind(_squeeze, known_from=1),
    "Unsqueeze": Kind(_unsqueeze, known_from=1),
    "Pad": Kind(_pad, known_from=1),
    "Clip": Kind(_clip, known_from=1),
    "Gather": Kind(_gather, known_from=1),
    "Tile": Kind(_tile, known_from=1),
    "ConstantOfShape": Kind(_constant_of_shape, known_from=0),
    "Range": Kind(_range, known_from=0),
    "Resize": Kind(_resize, known_from=1),
    "Upsample": Kind(_upsample, known_from=1),
    "LayerNormalization": Kind(_layer_norm, known_from=1, takes=_one_output),
    "GroupNormalization": Kind(_group_norm, known_from=1),
    "RMSNormalization": Kind(_rms_norm, known_from=1),
    "MatMul": Kind(_linear, known_from=1, takes=_stored_matrix),
    "Identity": Kind(lambda given: nn.Identity()),
    "Gelu": Kind(lambda given: nn.GELU(given.get("approximate", "none"))),
    "Mish": Kind(lambda given: nn.Mish()),
    "HardSwish": Kind(lambda given: nn.Hardswish()),
    "SpaceToDepth": Kind(_space_to_depth),
    "Trilu": Kind(_triangle, known_from=1),
    "GridSample": Kind(_grid_sample),
    "GlobalMaxPool": Kind(lambda given: _global_max),
    "LpNormalization": Kind(_lp_normalization),
    "Sinh": Kind(_one(torch.sinh)), "Cosh": Kind(_one(torch.cosh)), "Asinh": Kind(_one(torch.asinh)),
    "Acosh": Kind(_one(torch.acosh)), "Atanh": Kind(_one(torch.atanh)),
}  # fmt: skip
"""By ONNX's name of the operator."""
