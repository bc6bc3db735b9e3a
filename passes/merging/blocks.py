"""The blocks of a transformer, one after the other, on tokens that become fewer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import Tensor, nn

from .attention import TokenAttention
from .reduction import reduced
from .schedule import Kept, MatchingName, MergeName
from .token_batch import TokenBatch


class TokenBlock(nn.Module):
    """A pre-norm transformer block: attention, a site where tokens may go, an MLP.

    kept: what the site leaves; None where nothing goes. looks: how many of the first tokens importance is attention of,
    0 for all. read: how many of the first tokens are read of what it returns; None: all.
    """

    def __init__(
        self,
        norm1: nn.Module,
        attn: TokenAttention,
        ls1: nn.Module,
        norm2: nn.Module,
        mlp: nn.Module,
        ls2: nn.Module,
    ) -> None:
        super().__init__()
        self.norm1, self.attn, self.ls1 = norm1, attn, ls1
        self.norm2, self.mlp, self.ls2 = norm2, mlp, ls2
        self.kept: Kept | None = None
        self.merge: MergeName = "mean"
        self.matching: MatchingName = "importance"
        self.looks = 1
        self.read: int | None = None

    def forward(self, tokens: TokenBatch) -> TokenBatch:
        """The tokens that are left."""
        kept, looks = self.kept, None
        if kept is not None and kept.by_importance(tokens.patches, self.matching):
            looks = self.looks
        normed = tokens.with_features(self.norm1(tokens.features))
        mixed, importance = self.attn(normed, self.read, looks)
        if self.read is not None:
            tokens = TokenBatch(tokens.features[:, : self.read], self.read)
        tokens = tokens.with_features(tokens.features + self.ls1(mixed))
        if kept is not None:
            tokens = reduced(tokens, importance, kept, self.merge, self.matching)
        return tokens.with_features(tokens.features + self.ls2(self.mlp(self.norm2(tokens.features))))


class TokenBlocks(nn.Sequential):
    """All blocks of an encoder, in the place of its list of blocks and under the same names.

    Called once with what the first block would get. An encoder that walks over its list calls what it meets there:
    it meets this alone, which runs all. restores: whether as many tokens come back as went in, for what reads them
    all: a mean over them then counts each by its size, and an image of them has its shape.
    """

    def __init__(self, blocks: Iterable[tuple[str, TokenBlock]], leading: int) -> None:
        super().__init__()
        for name, block in blocks:
            self.add_module(name, block)
        self.leading = leading
        self.restores = False

    def __iter__(self) -> Iterator[nn.Module]:
        yield self

    @property
    def each(self) -> list[TokenBlock]:
        """The blocks in their order."""
        return list(self.children())  # type: ignore[arg-type]  # which it was made of

    def forward(  # type: ignore[override]
        self, features: Tensor, *masks: Tensor | None, rope: Tensor | None = None, **options: object
    ) -> Tensor:
        """Features (n, tokens, width) through all blocks.

        rope: rotary positions, (patches, values) or (n or 1, 1, patches, values). masks, options: what else encoders
        hand to a block, which is not looked at: that it is nothing was seen when the block was rebuilt. (While it is
        traced, Hugging Face makes a mask that hides nothing.)
        """
        tokens = self.entered(features, rope)
        for block in self.each:
            tokens = block(tokens)
        return tokens.restored()

    def entered(self, features: Tensor, rope: Tensor | None = None) -> TokenBatch:
        """What the first block is given of features and rotary positions."""
        if rope is not None and rope.dim() == 2:
            rope = rope[None, None]
        tokens = TokenBatch(features, self.leading, positions=rope)
        return tokens.followed() if self.restores else tokens
