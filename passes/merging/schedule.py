"""Schedule: how many patch tokens each block of a transformer goes on with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ...record import Record, read_record

MergeName = Literal["mean", "weighted", "soft"]
"""The rules by which tokens are added to others, `matching.py`."""
MatchingName = Literal["importance", "bipartite"]
"""The rules by which it is chosen which tokens are added to others, `reduction.py`."""
SCHEMA_VERSION = 1
MAX_BYTES = 1 << 20
HINT = "a schedule is the tokens.json that a run of the pass `tokens` leaves"


class Kept(Record, frozen=True):
    """Patch tokens that are left between the attention and the MLP of a block.

    pruned: once the least important ones are dropped; merged: once some of these are added to others.
    """

    pruned: Annotated[int, Field(ge=0)]
    merged: Annotated[int, Field(ge=0)]

    @model_validator(mode="after")
    def _falls(self) -> Self:
        if self.merged > self.pruned:
            raise ValueError(f"{self.merged} tokens merged of {self.pruned} that pruning left")
        if self.pruned > 0 == self.merged:
            raise ValueError("merged: 0 leaves no token to add the others to; drop them with pruned: 0")
        return self

    def by_importance(self, given: int, matching: MatchingName) -> bool:
        """Whether it matters here how important each of the tokens is that a block is given."""
        return self.pruned < given or (self.merged < self.pruned and matching == "importance")


class Schedule(Record, frozen=True):
    """Of every block how many patch tokens it keeps. patches: how many there are at first.

    matching: by which rule it is chosen who is merged; merge: by which one they are.
    """

    schema_version: int = SCHEMA_VERSION
    patches: Annotated[int, Field(ge=1)]
    blocks: tuple[Kept, ...]
    merge: MergeName = "mean"
    matching: MatchingName = "importance"

    @model_validator(mode="after")
    def _falls(self) -> Self:
        before = self.patches
        for index, kept in enumerate(self.blocks):
            if kept.pruned > before:
                raise ValueError(f"blocks[{index}]: keeps {kept.pruned} of {before} tokens")
            if kept.merged < self.least_merged(kept.pruned):
                raise ValueError(
                    f"blocks[{index}]: merges {kept.pruned - kept.merged} of {kept.pruned} tokens, and bipartite"
                    " matching merges at most every second one"
                )
            before = kept.merged
        return self

    @classmethod
    def of(
        cls,
        patches: int,
        pruned: Sequence[int],
        merged: Sequence[int],
        merge: MergeName = "mean",
        matching: MatchingName = "importance",
    ) -> Schedule:
        """From counts block by block; one above what is left by then counts as that.

        Where merging cannot leave as few, more are left, also from there on: what comes later drops only where its
        counts say that it drops, and merges only where they say that it merges.
        """
        whole = cls(patches=patches, blocks=(), merge=merge, matching=matching)
        blocks, given, left = list[Kept](), patches, patches  # given: by the counts alone; left: in truth
        for most, then in zip(pruned, merged, strict=True):
            dropped = min(most, given)
            staying = left if dropped == given else min(dropped, left)
            given = min(then, dropped)
            left = staying if given == dropped else max(min(given, staying), whole.least_merged(staying))
            blocks.append(Kept(pruned=staying, merged=left))
        return whole.model_copy(update={"blocks": tuple(blocks)})

    def with_counts(self, pruned: Sequence[int], merged: Sequence[int]) -> Schedule:
        """Other counts, block by block, by the same rules."""
        return Schedule.of(self.patches, pruned, merged, self.merge, self.matching)

    def least_merged(self, pruned: int) -> int:
        """The fewest tokens that merging can leave of so many."""
        return pruned - pruned // 2 if self.matching == "bipartite" else min(pruned, 1)

    def room(self, block: int, merging: bool) -> int:
        """How many tokens more can be merged in a block, or else be dropped before it merges."""
        kept = self.blocks[block]
        if not merging and self.matching == "bipartite":
            return min(2 * kept.merged - kept.pruned, kept.merged - 1)
        return kept.merged - (self.least_merged(kept.pruned) if merging else 1)

    @classmethod
    def whole(cls, patches: int, blocks: int) -> Schedule:
        """Of a transformer that keeps all."""
        return cls.of(patches, [patches] * blocks, [patches] * blocks)

    def without_the_last(self) -> Schedule:
        """The same, where nothing goes in the last block."""
        last = self.entering()[-1]
        blocks = (*self.blocks[:-1], Kept(pruned=last, merged=last))
        return self.model_copy(update={"blocks": blocks})

    def entering(self) -> list[int]:
        """How many patch tokens each block is given."""
        return [self.patches, *(kept.merged for kept in self.blocks)][: len(self.blocks)]

    @property
    def sites(self) -> int:
        """How many blocks keep fewer tokens than they are given."""
        return sum(kept.merged < given for kept, given in zip(self.blocks, self.entering(), strict=True))

    def scaled(self, patches: int) -> Schedule:
        """The same shares of another number of tokens, as of another input size."""

        def share(count: int) -> int:
            return round(count * patches / self.patches) or (1 if count else 0)

        pruned, merged = zip(*((share(kept.pruned), share(kept.merged)) for kept in self.blocks), strict=True)
        return Schedule.of(patches, pruned, merged, self.merge, self.matching)

    @classmethod
    def read(cls, path: Path) -> Schedule:
        """The schedule that a file holds; CompressError when it is none."""
        return read_record(cls, path, "schedule of tokens", SCHEMA_VERSION, MAX_BYTES, HINT)
