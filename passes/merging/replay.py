"""Blocks run on the same samples again and again, each time from the first block on that keeps other tokens.

A search changes a schedule at one block at a time. What the blocks before it compute is known from the schedules that
were run before, as long as it is remembered.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .blocks import TokenBlocks
from .schedule import Kept
from .token_batch import TokenBatch

MOST_BYTES = 1 << 30
"""Of tokens that are remembered."""
Counts = tuple[tuple[Kept | None, str, str, int], ...]
"""What the first blocks keep, and by which rules."""


class Replay:
    """Some batches of tokens, as the first block is given them, and what blocks with some counts made of them."""

    def __init__(self, given: Sequence[TokenBatch], most_bytes: int) -> None:
        self._given, self._most_bytes = given, most_bytes
        self._known: dict[Counts, list[TokenBatch]] = {}  # the least recently used first

    @torch.no_grad()
    def returned(self, blocks: TokenBlocks) -> list[Tensor]:
        """What these blocks return of each batch, (n, tokens, width); they differ from others only by their counts."""
        counts = tuple((block.kept, block.merge, block.matching, block.looks) for block in blocks.each)
        start, tokens = self._recalled(counts)
        for index in range(start, len(counts)):
            tokens = [blocks.each[index](batch) for batch in tokens]
            self._remember(counts[: index + 1], tokens)
        return [batch.restored() for batch in tokens]

    def _recalled(self, counts: Counts) -> tuple[int, Sequence[TokenBatch]]:
        """The most blocks whose tokens are known, and these."""
        known = [length for length in range(1, len(counts) + 1) if counts[:length] in self._known]
        for length in reversed(known):
            self._known[counts[:length]] = self._known.pop(counts[:length])
        return (known[-1], self._known[counts[: known[-1]]]) if known else (0, self._given)

    def _remember(self, counts: Counts, tokens: list[TokenBatch]) -> None:
        """Where there is no room, what was used longest ago is forgotten, but nothing that these counts begin with."""
        self._known[counts] = tokens
        while sum(map(_bytes, self._known.values())) > self._most_bytes:
            others = (known for known in self._known if known != counts[: len(known)])
            del self._known[next(others, counts)]


def _bytes(tokens: Sequence[TokenBatch]) -> int:
    tensors = (x for batch in tokens for x in (batch.features, batch.sizes, batch.positions, batch.origin))
    return sum(x.nbytes for x in tensors if x is not None)
