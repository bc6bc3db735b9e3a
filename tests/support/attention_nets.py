"""Small networks with the kinds of attention that are in use, written as their libraries write them."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SelfAttention(nn.Module):
    """As ViTSelfAttention and BertSelfAttention of Hugging Face's transformers 4."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.num_attention_heads = config.num_attention_heads
        self.attention_head_size = config.hidden_size // config.num_attention_heads
        self.all_head_size = self.num_attention_heads * self.attention_head_size
        self.query = nn.Linear(config.hidden_size, self.all_head_size)
        self.key = nn.Linear(config.hidden_size, self.all_head_size)
        self.value = nn.Linear(config.hidden_size, self.all_head_size)
        self.dropout = nn.Dropout(0.0)

    def transpose_for_scores(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], self.num_attention_heads, self.attention_head_size).permute(0, 2, 1, 3)

    def forward(self, hidden_states: Tensor, output_attentions: bool = False) -> tuple[Tensor, ...]:
        query = self.transpose_for_scores(self.query(hidden_states))
        key = self.transpose_for_scores(self.key(hidden_states))
        value = self.transpose_for_scores(self.value(hidden_states))
        scores = torch.matmul(query, key.transpose(-1, -2)) / math.sqrt(self.attention_head_size)
        probabilities = self.dropout(nn.functional.softmax(scores, dim=-1))
        context = torch.matmul(probabilities, value).permute(0, 2, 1, 3).contiguous()
        context = context.view(*context.shape[:-2], self.all_head_size)
        return (context, probabilities) if output_attentions else (context,)


class SelfOutput(nn.Module):
    """As ViTSelfOutput."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden_states: Tensor, input_tensor: Tensor) -> Tensor:
        return self.dense(hidden_states)


class SiblingAttention(nn.Module):
    """As ViTAttention: the projection is in a sibling of the module that has the heads."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.attention, self.output = SelfAttention(config), SelfOutput(config)

    def forward(self, hidden_states: Tensor, output_attentions: bool = False) -> tuple[Tensor, ...]:
        made = self.attention(hidden_states, output_attentions)
        return (self.output(made[0], hidden_states), *made[1:])


class Layer(nn.Module):
    """A pre-norm layer around an attention that returns a tuple, or a tensor."""

    def __init__(self, attention: nn.Module, width: int) -> None:
        super().__init__()
        self.attention = attention
        self.layernorm_before, self.layernorm_after = nn.LayerNorm(width), nn.LayerNorm(width)
        self.intermediate, self.output = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        made = self.attention(self.layernorm_before(x))
        x = x + (made[0] if isinstance(made, tuple) else made)
        return x + self.output(F.gelu(self.intermediate(self.layernorm_after(x))))


class Encoder(nn.Module):
    """Layers on tokens (n, 7, width), a head on their mean."""

    def __init__(self, *attentions: nn.Module, width: int = 24) -> None:
        super().__init__()
        self.layer = nn.ModuleList(Layer(attention, width) for attention in attentions)
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layer:
            x = layer(x)
        return self.head(x.mean(1))


def siblings() -> nn.Module:
    config = SimpleNamespace(hidden_size=24, num_attention_heads=4)
    return Encoder(SiblingAttention(config), SiblingAttention(config))


class GroupedQueryAttention(nn.Module):
    """As LlamaAttention: it holds the size of a head, not their number."""

    def __init__(self, width: int = 24, heads: int = 6, groups: int = 3, size: int = 4, rotary: bool = False):
        super().__init__()
        self.head_dim, self.rotary = size, rotary
        self.num_key_value_groups = heads // groups
        self.scaling = self.head_dim**-0.5
        self.q_proj = nn.Linear(width, heads * size, bias=False)
        self.k_proj = nn.Linear(width, groups * size, bias=False)
        self.v_proj = nn.Linear(width, groups * size, bias=False)
        self.o_proj = nn.Linear(heads * size, width, bias=False)

    def forward(self, hidden_states: Tensor) -> tuple[Tensor, Tensor]:
        shape = hidden_states.shape[:-1]
        query, key, value = (
            layer(hidden_states).view(*shape, -1, self.head_dim).transpose(1, 2)
            for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        if self.rotary:
            query, key = self.rotated(query), self.rotated(key)
        key, value = (x.repeat_interleave(self.num_key_value_groups, dim=1) for x in (key, value))
        weights = (query @ key.transpose(2, 3) * self.scaling).softmax(-1)
        mixed = (weights @ value).transpose(1, 2).reshape(*shape, -1).contiguous()
        return self.o_proj(mixed), weights

    def rotated(self, x: Tensor) -> Tensor:
        half = x.shape[-1] // 2
        angles = torch.arange(x.shape[2], dtype=x.dtype)[:, None] * torch.ones(half, dtype=x.dtype)
        cos, sin = angles.cos().repeat(1, 2), angles.sin().repeat(1, 2)
        return x * cos + torch.cat((-x[..., half:], x[..., :half]), dim=-1) * sin


class FusedAttention(nn.Module):
    """One layer for queries, keys and values; its rows in the order that `order` says of p: 3, h: heads, d: size."""

    def __init__(
        self, width: int = 24, heads: int = 4, order: str = "phd", talking: bool = False, name: str = "to_qkv"
    ) -> None:
        super().__init__()
        self.heads, self.dim_head, self.order, self.made_by = heads, width // heads, order, name
        setattr(self, name, nn.Linear(width, 3 * width))
        self.talking = nn.Linear(heads, heads) if talking else nn.Identity()
        self.to_out = nn.Sequential(nn.Linear(width, width), nn.Dropout(0.0))

    def forward(self, x: Tensor) -> Tensor:
        n, tokens = x.shape[:2]
        sizes = {"p": 3, "h": self.heads, "d": self.dim_head}
        made = getattr(self, self.made_by)(x).view(n, tokens, *(sizes[axis] for axis in self.order))
        query, key, value = made.permute(2 + self.order.index("p"), 0, *self._rest()).unbind(0)
        scores = query @ key.transpose(-1, -2) * self.dim_head**-0.5
        weights = self.talking(scores.movedim(1, -1)).movedim(-1, 1).softmax(-1)
        mixed = (weights @ value).transpose(1, 2)
        mixed = mixed.transpose(2, 3) if self.order == "pdh" else mixed
        return self.to_out(mixed.reshape(n, tokens, self.heads * self.dim_head))

    def _rest(self) -> tuple[int, int, int]:
        return 2 + self.order.index("h"), 1, 2 + self.order.index("d")


class TiedAttention(nn.Module):
    """As tutorials write it: sizes are those of its input, so that its width and that of the stream are one."""

    def __init__(self, width: int = 24, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, width = x.shape
        qkv = self.qkv(x).reshape(n, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(*qkv.unbind(0))
        return self.projection(mixed.transpose(1, 2).reshape(n, tokens, width))


class PairedAttention(nn.Module):
    """As PVT: queries by one layer, keys and values by another; the default scale of the fused operator."""

    def __init__(self, width: int = 24, heads: int = 4) -> None:
        super().__init__()
        self.num_heads, self.head_dim = heads, width // heads
        self.q, self.kv, self.proj = (
            nn.Linear(width, width),
            nn.Linear(width, 2 * width),
            nn.Linear(width, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        n, tokens = x.shape[:2]
        query = self.q(x).reshape(n, tokens, self.num_heads, self.head_dim).transpose(1, 2)
        pair = self.kv(x).reshape(n, tokens, 2, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, *pair.unbind(0))
        return self.proj(mixed.transpose(1, 2).reshape(n, tokens, -1))
