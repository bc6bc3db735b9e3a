"""The parts of a transformer block by their roles, whatever they are called, and the same block of these very parts.

What is found is a guess by names and sizes; whether it is right is seen by running it (`encoder.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn

from ..channels.attention_layers import (
    KEYS,
    QUERIES,
    VALUES,
    Layout,
    Rows,
    holds_heads,
    layouts_of,
    producers_of,
)
from ..channels.names import lies_in
from .attention import Rotation, TokenAttention, linear_of
from .blocks import TokenBlock

_ACTIVATIONS = ("activation", "act", "activation_fn")
_SEPARATE_BIASES = ("q_bias", "k_bias", "v_bias")  # as timm's EVA holds them, beside a layer without any


class Scale(nn.Module):
    """A factor of each channel."""

    def __init__(self, gamma: nn.Parameter) -> None:
        super().__init__()
        self.gamma = gamma

    def forward(self, x: Tensor) -> Tensor:
        """(..., channels) -> the same shape."""
        return x * self.gamma


def attentions_in(block: nn.Module) -> list[str]:
    """The names of what looks like an attention within a block."""
    return [name for name, part in block.named_modules() if name and _is_attention(part)]


def token_blocks(block: nn.Module) -> Iterator[TokenBlock]:
    """What a block may be in the common form, of the very same layers, likelier ones first."""
    attentions = attentions_in(block)
    if len(attentions) != 1:
        return
    [name] = attentions
    others = {key: child for key, child in block.named_children() if not lies_in(name, key)}
    norms = [child for child in others.values() if _is_norm(child)]
    mlp = _mlp(block, [child for child in others.values() if not _is_norm(child)])
    if len(norms) != 2 or mlp is None:
        return
    scales = [*_scales(block, others), nn.Identity(), nn.Identity()]
    for attention in _attentions(block, name):
        yield TokenBlock(norms[0], attention, scales[0], norms[1], mlp, scales[1])


def _is_attention(part: nn.Module) -> bool:
    return isinstance(part, nn.MultiheadAttention) or (holds_heads(part) and bool(producers_of(part)))


def _is_norm(part: nn.Module) -> bool:
    """Whether it is called a norm and has no weights but factors and offsets."""
    return "norm" in type(part).__name__.lower() and all(p.dim() == 1 for p in part.parameters())


def _mlp(block: nn.Module, others: list[nn.Module]) -> nn.Module | None:
    """The one part with several linear layers, or the two that lie in the block itself with its activation between."""
    holding = [part for part in others if sum(isinstance(m, nn.Linear) for m in part.modules()) > 1]
    if len(holding) == 1:
        return holding[0]
    layers = [part for part in others if isinstance(part, nn.Linear)]
    named = [getattr(block, name) for name in _ACTIVATIONS if callable(getattr(block, name, None))]
    if holding or len(layers) != 2 or not named:
        return None
    return nn.Sequential(layers[0], _Function(named[0]), layers[1])


class _Function(nn.Module):
    def __init__(self, function: nn.Module) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        called: Tensor = self.function(x)
        return called


def _scales(block: nn.Module, others: dict[str, nn.Module]) -> list[nn.Module]:
    """What the branches are multiplied by, in their order: parts, or parameters of the block itself."""
    parts = [part for part in others.values() if not _is_norm(part) and _has_one_vector(part)]
    return parts or [Scale(p) for _, p in block.named_parameters(recurse=False) if p.dim() == 1]


def _has_one_vector(part: nn.Module) -> bool:
    parameters = list(part.parameters())
    return len(parameters) == 1 and parameters[0].dim() == 1


def _attentions(block: nn.Module, name: str) -> Iterator[TokenAttention]:
    attention = block.get_submodule(name)
    if isinstance(attention, nn.MultiheadAttention):
        size = attention.embed_dim // attention.num_heads
        qkv = linear_of(attention.in_proj_weight, attention.in_proj_bias)
        yield TokenAttention(qkv, attention.out_proj, attention.num_heads, size**-0.5)
        return
    inner = {key: child for key, child in attention.named_children() if _is_norm(child)}
    q_norm, k_norm = (_first(inner, letter) for letter in "qk")
    norm = next((child for child in inner.values() if child is not q_norm and child is not k_norm), None)
    for layout in layouts_of(block, name):
        sizes = layout.sizes
        if sizes.heads == sizes.groups and sizes.size == sizes.value_size:
            yield TokenAttention(
                _qkv(block, attention, layout),
                _projection(block, layout),
                sizes.heads,
                _scaling(attention, sizes.size),
                q_norm,
                k_norm,
                norm,
                _rotation(attention),
            )


def _first(named: dict[str, nn.Module], letter: str) -> nn.Module | None:
    return next((part for name, part in named.items() if name.startswith(letter)), None)


def _scaling(attention: nn.Module, size: int) -> float:
    """What scores are multiplied by: torch's fused attention goes by the size of a head, whatever a module says."""
    told = getattr(attention, "scaling", None)
    if told is None and not getattr(attention, "fused_attn", True):
        told = getattr(attention, "scale", None)
    return float(told) if isinstance(told, (int, float)) else size**-0.5


def _qkv(block: nn.Module, attention: nn.Module, layout: Layout) -> nn.Linear:
    """One layer that makes queries, keys and values, in this order, head by head."""
    layers = {name: block.get_submodule(name) for name in layout.producers}
    if layout.usual and len(layers) == 1:
        [only] = layers.values()
        if isinstance(only, nn.Linear) and getattr(attention, _SEPARATE_BIASES[0], None) is None:
            return only
    weights, biases = list[Tensor](), list[Tensor]()
    for part in (QUERIES, KEYS, VALUES):
        for name, rows in layout.producers.items():
            order = _in_order(rows, part)
            weight, bias = (
                layers[name].get_parameter("weight").flatten(1),
                getattr(layers[name], "bias", None),
            )
            weights.append(weight[order])
            biases.append(weight.new_zeros(len(order)) if bias is None else bias[order])
    bias, biased = (
        torch.cat(biases),
        any(getattr(layer, "bias", None) is not None for layer in layers.values()),
    )
    if getattr(attention, _SEPARATE_BIASES[0], None) is not None:
        bias, biased = torch.cat([getattr(attention, name) for name in _SEPARATE_BIASES]), True
    return linear_of(torch.cat(weights), bias if biased else None)


def _projection(block: nn.Module, layout: Layout) -> nn.Linear:
    layer = block.get_submodule(layout.projection)
    if layout.usual and isinstance(layer, nn.Linear):
        return layer
    weight, bias = layer.get_parameter("weight").flatten(1), getattr(layer, "bias", None)
    return linear_of(weight[:, _in_order(layout.columns, QUERIES)], bias)


def _in_order(rows: Rows, part: int) -> Tensor:
    """The rows that are of a part, by head and by the dimension of the head."""
    places = (rows.part == part).nonzero()[:, 0]
    return places[torch.argsort(rows.head[places] * (int(rows.place.max()) + 1) + rows.place[places])]


def _rotation(attention: nn.Module) -> Rotation | None:
    if type(attention).__module__ != "timm.models.eva":
        return None
    from timm.layers.pos_embed_sincos import apply_rot_embed_cat

    return partial(apply_rot_embed_cat, half=bool(getattr(attention, "rotate_half", False)))
