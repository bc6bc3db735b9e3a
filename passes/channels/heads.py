"""Attention heads of a transformer: where they lie, and cutting whole ones, of the size they had.

Heads are independent of one another between `qkv` and the projection, so this needs no tracing.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .runs import Call, calls_of
from .surgery import Cut, UncuttableError

_HEADS = ("num_heads", "heads", "n_heads", "n_head", "nhead", "num_attention_heads")
INNER_WIDTH = ("attn_dim", "inner_dim", "all_head_dim")  # attributes that some hold heads x head size in


@dataclass(frozen=True)
class Attention:
    """A module with a `qkv` layer, rows in the order (3, heads, head_dim), and a projection of the heads.

    projection: the name of the child that reads the heads; None when they cannot be cut, and then `whole` says why.
    """

    name: str
    qkv: nn.Linear
    heads_attribute: str
    heads: int
    projection: str | None
    whole: str = ""

    @property
    def head_dim(self) -> int:
        """Channels of one head."""
        return self.qkv.out_features // (3 * self.heads)

    def kept(self, width: float) -> int:
        """How many heads are left at this width, at least one; all where they cannot be cut."""
        return max(1, int(width * self.heads + 0.5)) if self.projection else self.heads


def find_attentions(module: nn.Module, inputs: tuple[Tensor, ...]) -> list[Attention]:
    """All attention of the network; UncuttableError for one that is not understood."""
    named = [(name, m) for name, m in module.named_modules() if _heads_attribute(m)]
    known = [(name, m) for name, m in named if isinstance(getattr(m, "qkv", None), nn.Linear)]
    for name, m in named:
        outer = any(
            inner is not m and _heads_attribute(inner) for inner in m.modules()
        )  # a block around attention
        if not outer and (name, m) not in known:
            raise UncuttableError(
                f"the heads of {name or 'the network'} ({type(m).__name__}) cannot be narrowed: only attention with"
                " one `qkv` nn.Linear, and a number like `num_heads`, can"
            )
    calls = calls_of(module, inputs, [m for _, m in known])
    return [_described(name, m, calls.get(id(m), [])) for name, m in known]


def head_magnitude(module: nn.Module, attention: Attention) -> Tensor:
    """How large each head's weights are, (heads,): sums of squares of its qkv rows and of its projection's columns.

    Each of the two is taken over its mean. attention: one whose heads can be cut.
    """
    heads, size = attention.heads, attention.head_dim
    projection: Any = module.get_submodule(attention.name).get_submodule(attention.projection or "")
    read = projection.weight.detach().square().reshape(-1, heads, size).sum((0, 2))
    made = attention.qkv.weight.detach().square().reshape(3, heads, -1).sum((0, 2))
    magnitude: Tensor = read / read.mean() + made / made.mean()
    return magnitude


def keep_heads(module: nn.Module, attention: Attention, kept: list[int]) -> Cut:
    """The cut that leaves the given heads, ascending, of attention whose heads can be cut."""
    layer = module.get_submodule(attention.name)
    size, heads = attention.head_dim, attention.heads
    columns = [head * size + i for head in kept for i in range(size)]
    rows = [part * heads * size + column for part in range(3) for column in columns]
    prefix = f"{attention.name}." if attention.name else ""
    qkv, projection = f"{prefix}qkv", f"{prefix}{attention.projection}"
    tensors = {f"{qkv}.weight": {0: rows}, f"{projection}.weight": {1: columns}}
    if attention.qkv.bias is not None:
        tensors[f"{qkv}.bias"] = {0: rows}
    own = {attention.heads_attribute: len(kept)}
    own |= {name: len(columns) for name in INNER_WIDTH if isinstance(getattr(layer, name, None), int)}
    sizes = {qkv: {"out_features": len(rows)}, projection: {"in_features": len(columns)}}
    return Cut(tensors, {attention.name: own, **sizes})


def _heads_attribute(module: nn.Module) -> str | None:
    return next((name for name in _HEADS if type(getattr(module, name, None)) is int), None)


def _described(name: str, layer: nn.Module, calls: list[Call]) -> Attention:
    attribute = _heads_attribute(layer)
    assert attribute is not None
    heads, qkv = getattr(layer, attribute), layer.qkv
    assert isinstance(qkv, nn.Linear)
    inner = qkv.out_features // 3
    readers = [
        key
        for key, child in layer.named_children()
        if isinstance(child, nn.Linear) and child is not qkv and child.in_features == inner
    ]
    whole = ""
    if any(True for _ in layer.parameters(recurse=False)) or any(True for _ in layer.buffers(recurse=False)):
        whole = "it has tensors of its own beside its layers"
    elif len(readers) != 1:
        whole = "it has no single projection that reads the heads"
    elif not calls:
        whole = "it is not run"
    elif inner % heads or not _independent(layer, readers[0], heads, calls[0]):
        whole = "its qkv rows are not in the order (3, heads, size)"
    return Attention(name, qkv, attribute, heads, None if whole else readers[0], whole)


def _independent(layer: nn.Module, projection: str, heads: int, call: Call) -> bool:
    """Whether head 0 is where it is looked for: without its rows the layer does what it does without its columns.

    Equal shapes would not tell: rows in another order give a student of the same sizes that inherits nothing.
    """
    rowless, columnless = copy.deepcopy(layer), copy.deepcopy(layer)
    qkv: Any = rowless.qkv
    size = qkv.out_features // 3 // heads
    with torch.no_grad():
        for part in range(3):
            rows = slice(part * heads * size, part * heads * size + size)
            qkv.weight[rows] = 0
            if qkv.bias is not None:
                qkv.bias[rows] = 0
        reader: Any = columnless.get_submodule(projection)
        reader.weight[:, :size] = 0
        one, other = rowless(*call.given, **call.named), columnless(*call.given, **call.named)
    if not (isinstance(one, Tensor) and isinstance(other, Tensor)):
        return False
    # The other heads are computed alike in both; only the order of float32 sums can differ.
    return bool(torch.allclose(one, other, rtol=1e-3, atol=1e-4 * float(other.abs().max())))
