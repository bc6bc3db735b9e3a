"""Placement: which tensors of a canonical graph are quantized. One policy for post-training and for training.

A tensor is quantized once, at its producer, and every consumer reads the quantized one. It is quantized when

1. a convolution, linear layer or matmul reads it (through operators that only move values), or
2. an addition, multiplication or average whose own result is quantized reads it, so that a residual or gated
   branch stays in INT8; of an addition's operands the one that a convolution alone produced stays as it is,
   because runtimes can add it inside the convolution's accumulator. OpenVINO does so where the other operand comes
   from a convolution too; where it is an identity only when both are quantized, which graphs for such runtimes ask
   for (`BOTH_ADDENDS` among the graph's notes, from the scheme of the targets).

A concatenation is a producer like any other: its branches have ranges of their own, and one grid for all of them
would be the widest. So is a piece of a tensor, as query, key and value are of one layer's output.

Nothing else is quantized: LayerNorm, softmax and the residual stream of a pre-norm transformer stay float.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import torch
from torch import fx

from ...errors import CompressError
from ...macs import total_macs
from ..graph.layers import layer_name, layers_of, macs_of, shape_of, weight_axis, weight_operands
from ..graph.operators import (
    ACTIVATIONS,
    ADDITIONS,
    AVERAGES,
    MATMULS,
    MOVES,
    MULTIPLICATIONS,
    NEVER_INT8,
    PIECES,
    TRANSPOSED,
    WEIGHTED,
    aten,
    groups_of,
    operand,
)

BOTH_ADDENDS = "both_addends"


@dataclass(frozen=True)
class WeightSite:
    """A constant operand to quantize: the tensor's name, its output-channel axis, and its layer."""

    tensor: str
    axis: int
    layer: str


@dataclass(frozen=True)
class Coverage:
    """One layer that multiplies and accumulates, and whether it is quantized; `reason` says why not.

    macs: of one sample, None when they cannot be counted.
    """

    layer: str
    node: str
    kind: str
    macs: int | None
    quantized: bool
    reason: str = ""


@dataclass(frozen=True)
class Placement:
    """Where quantizers go. activations: names of the nodes whose tensors are quantized, each on its own grid."""

    activations: tuple[str, ...]
    weights: tuple[WeightSite, ...]
    coverage: tuple[Coverage, ...]

    @property
    def int8_macs(self) -> float | None:
        """Share of all multiply-accumulates that are quantized; None when not all can be counted."""
        total = total_macs(c.macs for c in self.coverage)
        if total is None:
            return None
        return sum(c.macs or 0 for c in self.coverage if c.quantized) / total if total else 0.0


def place(module: fx.GraphModule, keep_float: Mapping[str, str] = MappingProxyType({})) -> Placement:
    """Apply the policy to a canonical graph; layers named in `keep_float` demand nothing, for the reason beside them.

    A layer's name is that of the module that owns its weight, or its node's name when it owns none.
    """
    policy = _Policy(module, keep_float)
    for node in module.graph.nodes:
        policy.visit(node)
    return policy.result()


def layers_to_keep(module: fx.GraphModule, patterns: Sequence[str], what: str) -> dict[str, str]:
    """The layers that names or patterns (`blocks.0.*`) choose to stay in float, with the reason.

    what: the pass, for the CompressError that says which pattern matches no layer.
    """
    names = [layer_name(n) for n in layers_of(module)]
    kept: set[str] = set()
    for pattern in patterns:
        matched = fnmatch.filter(names, pattern)
        if not matched:
            raise CompressError(
                f"{what}.keep_float: no layer is named '{pattern}'. Layers: {', '.join(names[:8])}"
                + (f", … ({len(names)} in all; `compress inspect` lists them)" if len(names) > 8 else "")
            )
        kept.update(matched)
    return dict.fromkeys(sorted(kept), "kept in float by the recipe")


@dataclass
class _Policy:
    module: fx.GraphModule
    keep_float: Mapping[str, str]
    activations: list[fx.Node] = field(default_factory=list)
    weights: list[WeightSite] = field(default_factory=list)
    coverage: list[Coverage] = field(default_factory=list)

    def visit(self, node: fx.Node) -> None:
        if node.target not in (*WEIGHTED, *MATMULS) and node.target not in NEVER_INT8:
            self._cover_others(node)
            return
        name = layer_name(node)
        reason = self._why_float(node, name)
        kind = str(node.target).removeprefix("aten.").split(".")[0]
        self.coverage.append(Coverage(name, node.name, kind, macs_of(node), not reason, reason))
        if reason:
            return
        constants = weight_operands(node)
        for read in (operand(node, 0), operand(node, 1)):
            if read in constants:
                self.weights.append(WeightSite(str(read.target), weight_axis(node, read), name))
            else:
                self.demand(read)

    def _cover_others(self, node: fx.Node) -> None:
        """What multiplies, or may, and has no quantized form here: a share without it would be too large."""
        if any("val" not in operand.meta for operand in node.all_input_nodes):
            return  # a rewrite of ours put it between: those only move values, or are layers of the kinds above
        macs = macs_of(node)
        if macs != 0:
            kind = str(node.target).removeprefix("aten.").split(".")[0]
            self.coverage.append(
                Coverage(node.name, node.name, kind, macs, False, f"{kind} has no INT8 form here")
            )

    def _why_float(self, node: fx.Node, name: str) -> str:
        if name in self.keep_float:
            return self.keep_float[name]
        if node.target in NEVER_INT8:
            return NEVER_INT8[node.target]
        if node.target in WEIGHTED and not weight_operands(node):
            return "its weight is computed from activations, so it cannot be stored as INT8"
        if node.target in TRANSPOSED and groups_of(node) != 1:
            return "a grouped transposed convolution has no per-channel INT8 form"
        if any(not _is_float(o) for o in node.args[:2]):
            return "its operands are not floating point"
        return ""

    def demand(self, node: fx.Node) -> None:
        """Quantize the tensor that `node` shows, where it is produced."""
        source = source_of(node)
        if source not in self.activations:
            self.activations.append(source)
            self._demand_operands(source)

    def _demand_operands(self, source: fx.Node) -> None:
        root = _before_activations(source)
        operands = [a for a in root.args if isinstance(a, fx.Node) and a.op != "get_attr" and _is_float(a)]
        if root.target in ADDITIONS and len(operands) == 2:
            accumulated = [o for o in operands if o.target in WEIGHTED and len(o.users) == 1]
            if self.module.meta.get(BOTH_ADDENDS) and any(o.target not in WEIGHTED for o in operands):
                accumulated = []
            for addend in operands:
                if not accumulated or addend is not accumulated[-1]:
                    self.demand(addend)
        elif root.target in MULTIPLICATIONS and len(operands) == 2:
            for factor in operands:
                if shape_of(factor) == shape_of(root):  # a per-channel gate is tiny: leave it float
                    self.demand(factor)
        elif root.target in AVERAGES:
            self.demand(operands[0])

    def result(self) -> Placement:
        unique = {site.tensor: site for site in self.weights}
        activations = tuple(node.name for node in self.activations)
        return Placement(activations, tuple(unique.values()), tuple(self.coverage))


def source_of(node: fx.Node) -> fx.Node:
    """The tensor whose values `node` shows: up through what only moves values.

    A piece of a tensor is a tensor of its own: query, key and value come out of one layer with ranges that differ
    by an order of magnitude.
    """
    if node.target in MOVES and node.target not in PIECES and _pads_with_zero(node):
        return source_of(operand(node, 0))
    return node


def _pads_with_zero(node: fx.Node) -> bool:
    """Whether a padding fills in values of the tensor or zeros; true for every operator that does not pad."""
    if node.target is aten.pad.default:
        mode = node.args[2] if len(node.args) > 2 else "constant"
        return bool(mode != "constant" or len(node.args) < 4 or node.args[3] in (None, 0.0))
    if node.target is aten.constant_pad_nd.default:
        return bool(len(node.args) < 3 or node.args[2] == 0)
    return True


def _before_activations(node: fx.Node) -> fx.Node:
    while node.target in ACTIVATIONS:
        node = operand(node, 0)
    return node


def _is_float(node: object) -> bool:
    if not isinstance(node, fx.Node):
        return False
    value = node.meta.get("val")
    return value is None or (isinstance(value, torch.Tensor) and value.dtype.is_floating_point)


def factors(module: fx.GraphModule) -> frozenset[str]:
    """The names of the tensors that products of two activations read, where they are produced."""
    found = set()
    for node in module.graph.nodes:
        if node.target in MATMULS and not weight_operands(node):
            found |= {source_of(operand(node, place)).name for place in (0, 1)}
    return frozenset(found)
