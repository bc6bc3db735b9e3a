"""Attention between tokens that stand for unequal numbers of patches, in one form for all kinds of transformers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .reduction import received
from .token_batch import TokenBatch

Rotation = Callable[[Tensor, Tensor], Tensor]
"""Turns queries or keys, (n, heads, patches, dimensions), by positions (n or 1, 1, patches, values)."""


class TokenAttention(nn.Module):
    """Multi-head self-attention; `proj` reads the heads side by side.

    qkv: makes (3, heads, dimensions) of a token; None where q makes the queries and kv the keys and values. turn: of
    rotary embeddings, applied to patch tokens alone.
    Proportional attention (ToMe, arXiv 2210.09461, equation 1): the logarithm of a token's size is added to the scores
    of all who look at it.
    """

    def __init__(
        self,
        qkv: nn.Linear,
        proj: nn.Linear,
        num_heads: int,
        scale: float,
        q_norm: nn.Module | None = None,
        k_norm: nn.Module | None = None,
        norm: nn.Module | None = None,
        turn: Rotation | None = None,
    ) -> None:
        super().__init__()
        self.num_heads, self.scale, self.turn = num_heads, scale, turn
        self.head_dim = qkv.out_features // (3 * num_heads)
        self.qkv: nn.Linear | None = qkv
        self.q: nn.Linear | None = None
        self.kv: nn.Linear | None = None
        self.q_norm = q_norm or nn.Identity()
        self.k_norm = k_norm or nn.Identity()
        self.norm = norm or nn.Identity()
        self.proj = proj

    def separate_queries(self) -> None:
        """Make queries in a layer of their own, so that fewer tokens can look than are looked at."""
        qkv = self.qkv
        assert qkv is not None
        rows = qkv.out_features // 3
        self.q, self.kv = (_rows(qkv, slice(0, rows)), _rows(qkv, slice(rows, None)))
        self.qkv = None

    def projected(self, tokens: TokenBatch, readers: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries of the first `readers` tokens (None: all), keys and values of all: (n, heads, tokens, dimensions)."""
        x = tokens.features
        if self.qkv is not None:
            queries, keys, values = self._heads(self.qkv(x), 3)
            queries = queries if readers is None else queries[:, :, :readers]
        else:
            assert self.q is not None and self.kv is not None
            keys, values = self._heads(self.kv(x), 2)
            [queries] = self._heads(self.q(x if readers is None else x[:, :readers]), 1)
        queries, keys = self.q_norm(queries), self.k_norm(keys)
        return self._turned(queries, tokens), self._turned(keys, tokens), values

    def forward(
        self, tokens: TokenBatch, readers: int | None = None, looks: int | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """What the first `readers` tokens (None: all) take from all, (n, readers, width).

        And where it is asked for by `looks`, the attention that each patch receives of that many tokens, 0 for all; of
        the class token alone by 1 (DiffRate, arXiv 2305.17997, section 3.2).
        """
        queries, keys, values = self.projected(tokens, readers)
        scores = self._scores(queries, keys, tokens)
        mixed = self.proj(self.norm((scores.softmax(-1) @ values).transpose(1, 2).flatten(2)))
        if looks is None:
            return mixed, None
        # By scores of its own, where few look: attention whose weights are read twice is not fused by runtimes. And by
        # a softmax of its own: that of the values is rounded to 8 bits where the network is quantized, and then most
        # patches would be equally important.
        looking = self._scores(queries[:, :, :looks], keys, tokens) if looks else scores
        return mixed, received(looking.softmax(-1), tokens.leading)

    def _scores(self, queries: Tensor, keys: Tensor, tokens: TokenBatch) -> Tensor:
        scores = queries @ keys.transpose(-1, -2) * self.scale
        log_sizes = tokens.log_sizes
        return scores if log_sizes is None else scores + log_sizes[:, None, None, :]

    def _heads(self, rows: Tensor, parts: int) -> tuple[Tensor, ...]:
        n, tokens, _ = rows.shape
        return rows.reshape(n, tokens, parts, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)

    def _turned(self, heads: Tensor, tokens: TokenBatch) -> Tensor:
        if self.turn is None or tokens.positions is None:
            return heads
        leading, patches = heads[:, :, : tokens.leading], heads[:, :, tokens.leading :]
        turned = self.turn(patches, tokens.positions[:, :, : patches.shape[2]])
        return torch.cat([leading, turned], 2)


def _rows(layer: nn.Linear, rows: slice) -> nn.Linear:
    """A layer that makes some outputs of another."""
    return linear_of(layer.weight[rows], None if layer.bias is None else layer.bias[rows])


def linear_of(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A layer with copies of these, (outputs, inputs) and (outputs,)."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    layer.weight = nn.Parameter(weight.detach().clone())
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone())
    return layer
