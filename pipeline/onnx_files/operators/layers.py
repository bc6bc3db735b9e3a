"""Norms, matrix products with a constant, and bounds of ONNX as layers of torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from .kinds import Function, Given

if TYPE_CHECKING:
    import onnx


def layer_norm(given: Given) -> nn.Module:
    """Build LayerNormalization as a layer."""
    scale, bias = given.tensor(1), given.tensor(2)
    assert scale is not None
    module = nn.LayerNorm(tuple(scale.shape), eps=given.get("epsilon", 1e-5), bias=bias is not None)
    _fill(module, scale, bias)
    return module


def one_output(node: onnx.NodeProto, stored: set[str]) -> bool:
    """Tell whether a norm gives its result alone, and not its statistics too."""
    return sum(bool(name) for name in node.output) == 1


def group_norm(given: Given) -> nn.Module:
    """Opset 18 has a scale for each group, opset 21 for each channel: both are one for each channel here."""
    scale, bias, groups = given.tensor(1), given.tensor(2), int(given.get("num_groups"))
    assert scale is not None and bias is not None
    module = nn.GroupNorm(groups, len(scale), eps=given.get("epsilon", 1e-5))
    _fill(module, scale, bias)
    return module


def rms_norm(given: Given) -> nn.Module:
    """Build RMSNormalization as a layer."""
    scale = given.tensor(1)
    assert scale is not None
    module = nn.RMSNorm(tuple(scale.shape), eps=given.get("epsilon", 1e-5))
    _fill(module, scale, None)
    return module


def linear(given: Given) -> nn.Module:
    """x @ W for a constant W of shape (in, out)."""
    weight = given.tensor(1)
    assert weight is not None
    module = nn.Linear(weight.shape[0], weight.shape[1], bias=False)
    _fill(module, weight.T.contiguous(), None)
    return module


def stored_matrix(node: onnx.NodeProto, stored: set[str]) -> bool:
    """Tell whether a product's second factor is a constant."""
    return node.input[1] in stored


def _fill(module: Any, weight: Tensor, bias: Tensor | None) -> None:
    module.weight = nn.Parameter(weight)
    if bias is not None:
        module.bias = nn.Parameter(bias)


def clip(given: Given) -> Function | nn.Module:
    """Build Clip between constants, as the activation that it is where there is one."""
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


def lp_normalization(given: Given) -> Function:
    """Build LpNormalization along an axis."""
    axis, p = int(given.get("axis", -1)), int(given.get("p", 2))
    return lambda batch, x: x / x.norm(p, axis, keepdim=True)
