"""How many tokens each block of a transformer keeps, as the report draws it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..run_record import StepRecord
from .details import number_in

BLOCKS = 200
"""Most rows of the chart."""


@dataclass(frozen=True)
class BlockTokens:
    """Patch tokens of one block: given to it, left by pruning, and left in the end."""

    index: int
    given: int
    pruned: int
    merged: int

    @property
    def told(self) -> str:
        """What went, in words."""
        dropped, joined = self.given - self.pruned, self.pruned - self.merged
        return ", ".join(f"{n} {what}" for n, what in ((dropped, "dropped"), (joined, "merged")) if n)


@dataclass(frozen=True)
class TokenCounts:
    """The blocks of an encoder. read: how many tokens the last one goes on with, which is then not among the blocks;
    None: all. merge: the rule by which tokens are merged, "" where it is not told."""

    step: StepRecord
    place: str
    patches: int
    leading: int
    blocks: tuple[BlockTokens, ...]
    read: int | None
    merge: str

    @property
    def line(self) -> str:
        """All blocks in one line."""
        counts = ", ".join(f"{block.merged:,}" for block in self.blocks)
        last = (
            "" if self.read is None else f"; the last block goes on with the first {self.read:,} of all alone"
        )
        return f"patch tokens after each block, of {self.patches:,}: {counts}{last}"


def token_counts(step: StepRecord) -> TokenCounts | None:
    """The counts that a step left in its details; None where it left none, or of another shape than ours."""
    found = step.details.get("tokens")
    if not isinstance(found, dict) or not isinstance(found.get("schedule"), dict):
        return None
    rows = found["schedule"].get("blocks")
    patches, leading = (_count(each) for each in (found["schedule"].get("patches"), found.get("leading")))
    if not isinstance(rows, list) or not patches or leading is None:
        return None
    blocks, given = [], patches
    for index, row in enumerate(rows[:BLOCKS]):
        kept = [_count(row.get(key)) for key in ("pruned", "merged")] if isinstance(row, dict) else [None]
        if None in kept:
            return None
        pruned, merged = (min(count or 0, given) for count in kept)
        blocks.append(BlockTokens(index, given, pruned, min(pruned, merged)))
        given = blocks[-1].merged
    read = _count(found.get("read"))
    shown = tuple(blocks if read is None else blocks[:-1])
    merge = str(found["schedule"].get("merge", ""))
    return TokenCounts(step, str(found.get("place", "")), patches, leading, shown, read, merge)


def _count(value: Any) -> int | None:
    number = number_in(value)
    return None if number is None or number % 1 or number < 0 else int(number)
