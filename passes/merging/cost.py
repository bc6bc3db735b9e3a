"""What one sample costs as a function of how many tokens each block keeps: multiply-accumulates, by their kinds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import nn

from .blocks import TokenBlock
from .schedule import Kept, Schedule


class Cost(Protocol):
    """What is to become less. unit: what it is, in words."""

    @property
    def unit(self) -> str:
        """As `latency`."""

    @property
    def whole(self) -> float:
        """Of the network as it was given."""

    @property
    def by_site(self) -> bool:
        """Whether a block that tokens go from costs something however few go."""

    def of(self, schedule: Schedule) -> float:
        """With a schedule."""


class Work(NamedTuple):
    """Multiply-accumulates of a block: of layers that all tokens go through and of the products of attention; of the
    MLP, which those that are left go through; of a site: of the scores that importance goes by, and of matching."""

    layers: int
    products: int
    mlp: int
    site: int


@dataclass(frozen=True)
class BlockWidths:
    """Sizes of one block: width of a token; of all heads together (attended); weights that each token goes through.

    looking: of the layer that makes queries, looked_at: of those that make keys and values, mixing: of what reads the
    heads, mlp: of all of the MLP.
    """

    width: int
    attended: int
    looking: int
    looked_at: int
    mixing: int
    mlp: int

    @classmethod
    def of(cls, block: TokenBlock) -> BlockWidths:
        """Those of a block."""
        attn = block.attn
        attended = attn.num_heads * attn.head_dim
        width = attn.proj.out_features
        return cls(
            width,
            attended,
            looking=width * attended,
            looked_at=2 * width * attended,
            mixing=attn.proj.weight.numel(),
            mlp=sum(layer.weight.numel() for layer in block.mlp.modules() if isinstance(layer, nn.Linear)),
        )

    def work(self, leading: int, given: int, kept: Kept, rules: Schedule, looks: int = 0) -> Work:
        """Of a block that is given so many patch tokens, and keeps some of them by the rules of a schedule.

        looks: the first tokens whose scores are computed once more, for importance; 0: those of all, there already.
        """
        tokens, going = leading + given, kept.pruned - kept.merged
        looked = looks * tokens * self.attended if kept.by_importance(given, rules.matching) else 0
        matched, joined = going, kept.merged  # cosines of how many tokens, and how many any of them may join
        if rules.matching == "bipartite" and going:
            matched, joined = kept.pruned - kept.pruned // 2, kept.pruned // 2
            matched += going if rules.merge == "soft" else 0  # once more, as what they are shared out by
        sums = self.width + (rules.merge == "mean")  # features, and the plain mean's sizes by their cosines
        merging = joined * (matched * self.width + going * sums)
        return Work(
            layers=tokens * (self.looked_at + self.looking + self.mixing),
            products=tokens * 2 * tokens * self.attended,
            mlp=(leading + kept.merged) * self.mlp,
            site=looked + merging,
        )

    def last_work(self, tokens: int, read: int) -> Work:
        """Of a block that is given so many tokens, of which the first `read` alone go on behind the keys and values."""
        return Work(
            layers=tokens * self.looked_at + read * (self.looking + self.mixing),
            products=read * 2 * tokens * self.attended,
            mlp=read * self.mlp,
            site=0,
        )


@dataclass(frozen=True)
class Macs:
    """Of a network. blocks: their sizes; outside: what all else takes; whole: with all tokens; read: as above."""

    blocks: tuple[BlockWidths, ...]
    leading: int
    outside: int
    whole: int
    read: int | None
    unit = "multiply-accumulates"
    by_site = False

    def of(self, schedule: Schedule) -> int:
        """With a schedule; the last block's is not looked at where only some tokens of it are read."""
        return self.outside + sum(sum(work) for work in self.work(schedule))

    def work(self, schedule: Schedule) -> list[Work]:
        """Of each block with a schedule."""
        rows = zip(self.blocks, schedule.entering(), schedule.blocks, strict=True)
        return [
            block.work(self.leading, given, kept, schedule, self.read or 0)
            if (read := self.read_of(index)) is None
            else block.last_work(self.leading + given, read)
            for index, (block, given, kept) in enumerate(rows)
        ]

    def read_of(self, block: int) -> int | None:
        """How many tokens are read of a block, where that is not all."""
        return self.read if block == len(self.blocks) - 1 else None


def macs_of(blocks: list[TokenBlock], leading: int, patches: int, whole: int, read: int | None) -> Macs:
    """Of a network that takes `whole` multiply-accumulates with all of its tokens, read or not."""
    sizes = tuple(BlockWidths.of(block) for block in blocks)
    plain = Macs(sizes, leading, 0, whole, None)
    within = plain.of(Schedule.whole(patches, len(blocks)))
    return Macs(sizes, leading, whole - within, whole, read)
