"""Operators that are converted here and not by onnx2torch: what is constant about one is fixed in its module.

onnx2torch reads shapes, axes and slices from tensors while the network runs, which `torch.export` cannot follow, and
lacks what newer opsets have. `OWN_KINDS` lists what is built instead, one function each.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from .images import global_max, grid_sample, resized, space_to_depth, upsample
from .kinds import Function, Given, Kind, Operator
from .layers import (
    clip,
    group_norm,
    layer_norm,
    linear,
    lp_normalization,
    one_output,
    rms_norm,
    stored_matrix,
)
from .reductions import REDUCTIONS, reduce
from .selections import gather, pad, row_major, slicing, split, triangle
from .shapes import arange, constant_of_shape, expand, flatten, reshape, squeeze, tile, unsqueeze

OWN = "Edgepress"
"""Prefix of an operator's name that says that it is converted here."""
_OPSETS = range(1, 18)


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


def _one(function: Callable[[Tensor], Tensor]) -> Callable[[Given], Function]:
    return lambda given: lambda batch, x: function(x)


OWN_KINDS: dict[str, Kind] = {
    **{f"Reduce{k}": Kind(reduce(k), known_from=1) for k in (*REDUCTIONS, "Prod")},
    "Reshape": Kind(reshape, known_from=1),
    "Flatten": Kind(flatten),
    "Expand": Kind(expand, known_from=1),
    "Slice": Kind(slicing, known_from=1),
    "Split": Kind(split, known_from=1, takes=row_major),
    "Squeeze": Kind(squeeze, known_from=1),
    "Unsqueeze": Kind(unsqueeze, known_from=1),
    "Pad": Kind(pad, known_from=1),
    "Clip": Kind(clip, known_from=1),
    "Gather": Kind(gather, known_from=1),
    "Tile": Kind(tile, known_from=1),
    "ConstantOfShape": Kind(constant_of_shape, known_from=0),
    "Range": Kind(arange, known_from=0),
    "Resize": Kind(resized, known_from=1),
    "Upsample": Kind(upsample, known_from=1),
    "LayerNormalization": Kind(layer_norm, known_from=1, takes=one_output),
    "GroupNormalization": Kind(group_norm, known_from=1),
    "RMSNormalization": Kind(rms_norm, known_from=1),
    "MatMul": Kind(linear, known_from=1, takes=stored_matrix),
    "Identity": Kind(lambda given: nn.Identity()),
    "Gelu": Kind(lambda given: nn.GELU(given.get("approximate", "none"))),
    "Mish": Kind(lambda given: nn.Mish()),
    "HardSwish": Kind(lambda given: nn.Hardswish()),
    "SpaceToDepth": Kind(space_to_depth),
    "Trilu": Kind(triangle, known_from=1),
    "GridSample": Kind(grid_sample),
    "GlobalMaxPool": Kind(lambda given: global_max),
    "LpNormalization": Kind(lp_normalization),
    "Sinh": Kind(_one(torch.sinh)), "Cosh": Kind(_one(torch.cosh)), "Asinh": Kind(_one(torch.asinh)),
    "Acosh": Kind(_one(torch.acosh)), "Atanh": Kind(_one(torch.atanh)),
}  # fmt: skip
"""How each operator is built, by ONNX's name of it."""
