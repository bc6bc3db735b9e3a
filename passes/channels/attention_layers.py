"""The layers of an attention, and of which head each of their rows may be, as names and sizes suggest.

These are guesses; `attention_probe.py` tells which of them holds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

from .kind import Kind
from .names import above, joined

HEADS = ("num_heads", "heads", "n_heads", "n_head", "nhead", "num_attention_heads")
_GROUPS = ("num_key_value_heads", "num_kv_heads", "n_kv_heads", "kv_heads")
_HEAD_SIZES = ("head_dim", "dim_head", "d_head", "head_size", "attention_head_size", "key_value_proj_dim")
_NAMES = (
    *((name,) for name in ("qkv", "to_qkv", "qkv_proj", "in_proj", "Wqkv", "query_key_value", "attn_qkv")),
    *(("q", "kv"), ("q_proj", "kv_proj"), ("to_q", "to_kv"), ("query", "key_value"), ("wq", "wkv")),
    *(("q_proj", "k_proj", "v_proj"), ("query", "key", "value"), ("to_q", "to_k", "to_v"), ("q", "k", "v")),
    *(("wq", "wk", "wv"), ("w_q", "w_k", "w_v"), ("q_lin", "k_lin", "v_lin")),
    *(("query_proj", "key_proj", "value_proj"), ("linear_q", "linear_k", "linear_v")),
)
"""Names of the layers that make queries, keys and values: all in one, keys and values in one, each its own."""
QUERIES, KEYS, VALUES = range(3)
_PARTS = {1: ((QUERIES, KEYS, VALUES),), 2: ((QUERIES,), (KEYS, VALUES)), 3: ((QUERIES,), (KEYS,), (VALUES,))}

# Axes of the rows, and of the columns that the projection reads: (p)art, (h)ead, (d)imension of the head.
_USUAL = ("phd", "hd")
_ORDERS = (_USUAL, ("hpd", "hd"), ("pdh", "dh"), ("hdp", "hd"), ("phd", "dh"))


@dataclass(frozen=True, eq=False)
class Rows:
    """What each output of a layer is, or each channel that it reads: (rows,) int64 each.

    part: QUERIES, KEYS or VALUES; head: of keys and values, query heads that share one have its number; place: the
    dimension of the head.
    """

    part: Tensor
    head: Tensor
    place: Tensor

    def owner(self, kind: Kind) -> Tensor:
        """The choice of a unit of heads, or of head size, that each belongs to, (rows,)."""
        return self.head if kind is Kind.HEADS else self.place


@dataclass(frozen=True)
class Sizes:
    """How many heads there are of queries (heads), and of keys and values (groups); their sizes, that of values too."""

    heads: int
    groups: int
    size: int
    value_size: int

    @property
    def widths(self) -> set[int]:
        """Of all heads together: of queries, keys, values."""
        return {
            self.heads * self.size,
            self.groups * self.size,
            self.heads * self.value_size,
            self.groups * self.value_size,
        }


@dataclass(frozen=True, eq=False)
class Layout:
    """A guess: the layers that make queries, keys and values, and the one that reads the heads, by their full names.

    usual: whether the rows are in the order (3, heads, size) that most have.
    """

    name: str
    producers: Mapping[str, Rows]
    projection: str
    columns: Rows
    sizes: Sizes
    usual: bool

    def queries(self, kind: Kind) -> Tensor:
        """The choice of each channel of the queries, (heads x size,)."""
        return torch.cat([rows.owner(kind)[rows.part == QUERIES] for rows in self.producers.values()])


def heads_of(module: nn.Module) -> int | None:
    """The number that a module holds of its heads."""
    return _number(module, HEADS)


def holds_heads(module: nn.Module) -> bool:
    """Whether a module holds a number of heads, or their size."""
    return _number(module, (*HEADS, *_HEAD_SIZES)) is not None


def producers_of(module: nn.Module) -> tuple[str, ...]:
    """The layers that make queries, keys and values, in this order, as named within the module; () if it has none."""
    for names in _NAMES:
        layers = [_layer_in(module, name) for name in names]
        if all(layers):
            return tuple(layers)
    return ()


def is_pointwise(layer: nn.Module) -> bool:
    """Whether a layer multiplies each position with one matrix, (outputs, inputs), that is its weight."""
    one = isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1) and layer.groups == 1
    return (one or isinstance(layer, nn.Linear)) and "weight" in layer._parameters


def layouts_of(root: nn.Module, name: str) -> list[Layout]:
    """The guesses about the attention `name` of a network, likelier ones first.

    The heads are read within the attention, or else beside it, as in Hugging Face's ViTSelfAttention and ViTSelfOutput.
    """
    attention = root.get_submodule(name)
    made = [joined(name, child) for child in producers_of(attention)]
    outputs = [root.get_parameter(f"{layer}.weight").shape[0] for layer in made]
    for scope in above(name)[:3]:
        found: list[Layout] = []
        for child, layer in root.get_submodule(scope).named_modules():
            reader = joined(scope, child)
            if is_pointwise(layer) and reader not in made:
                sizes = _sizes(attention, outputs, layer.get_parameter("weight").shape[1])
                found += _ordered(name, made, reader, sizes) if sizes else []
        if found:
            return found
    return []


def _number(module: nn.Module, names: tuple[str, ...]) -> int | None:
    numbers = (getattr(module, name, None) for name in names)
    return next((number for number in numbers if type(number) is int and number > 0), None)


def _layer_in(module: nn.Module, name: str) -> str:
    """The one layer that is the child `name`, or lies in it beside norms as LeViT has them; "" for none."""
    child = module._modules.get(name)
    layers = child.named_modules() if child is not None else ()
    found = [(inner, layer) for inner, layer in layers if isinstance(layer, (nn.Linear, nn.Conv2d))]
    return joined(name, found[0][0]) if len(found) == 1 and is_pointwise(found[0][1]) else ""


def _sizes(attention: nn.Module, outputs: list[int], inner: int) -> Sizes | None:
    """What the numbers of outputs say, where `inner` channels are read; None where they do not fit together."""
    size = _number(attention, _HEAD_SIZES)
    heads = heads_of(attention) or (inner // size if size else 0)
    if not heads or inner < heads:
        return None
    value_size, groups = inner // heads, _number(attention, _GROUPS) or heads
    if len(outputs) == 1:
        size = (outputs[0] - groups * value_size) // (heads + groups)
    else:
        size = outputs[0] // heads
        groups = outputs[1] // max(1, size + value_size if len(outputs) == 2 else size)
    if size < 1 or groups < 1 or heads % groups or inner != heads * value_size:
        return None
    each = (heads * size, groups * size, groups * value_size)
    expected = [sum(each[part] for part in parts) for parts in _PARTS[len(outputs)]]
    return Sizes(heads, groups, size, value_size) if outputs == expected else None


def _ordered(name: str, made: list[str], projection: str, sizes: Sizes) -> Iterator[Layout]:
    """The layouts of these layers in every order of their rows."""
    tried: list[list[Tensor]] = []
    for rows, columns in _ORDERS:
        for repeated in (True, False):  # query heads of a group side by side, or one of each group in turn
            producers = {
                layer: _rows(rows, parts, sizes, repeated)
                for layer, parts in zip(made, _PARTS[len(made)], strict=True)
            }
            read = _rows(f"p{columns}", (QUERIES,), sizes, repeated, sizes.value_size)
            heads = [torch.stack((one.head, one.place)) for one in (*producers.values(), read)]
            if not any(all(map(torch.equal, heads, others)) for others in tried):
                tried.append(heads)
                usual = (rows, columns) == _USUAL and repeated
                yield Layout(name, producers, projection, read, sizes, usual)


@cache
def _rows(
    order: str, parts: tuple[int, ...], sizes: Sizes, repeated: bool, value_size: int | None = None
) -> Rows:
    found = []
    for part in parts:
        heads = sizes.heads if part == QUERIES else sizes.groups
        size = value_size or (sizes.value_size if part == VALUES else sizes.size)
        found += [{"p": part, "h": head, "d": place} for head in range(heads) for place in range(size)]
    found.sort(key=lambda row: [row[axis] for axis in order])
    made, heads_of_rows, places = (torch.tensor([row[axis] for row in found]) for axis in "phd")
    shared = heads_of_rows // (sizes.heads // sizes.groups) if repeated else heads_of_rows % sizes.groups
    return Rows(made, torch.where(made == QUERIES, shared, heads_of_rows), places)
