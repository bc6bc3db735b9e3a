"""Randomness without state: every draw follows from the seed and its place, so that a resumed run repeats it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor


def generator(*place: object) -> torch.Generator:
    """A generator seeded by where it is used: the same for the same place, in any process."""
    digest = hashlib.sha256("/".join(map(str, place)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def sample_order(seed: int, epoch: int, count: int) -> list[int]:
    """The order in which an epoch visits `count` samples."""
    order: list[int] = torch.randperm(count, generator=generator(seed, "order", epoch)).tolist()
    return order


@dataclass(frozen=True)
class Draws:
    """The random numbers of one training step, for the samples `rows` of its batch.

    What is drawn for a sample depends on its place in the batch alone: however many processes or parts share the
    batch, it gets the same numbers.
    """

    seed: int
    step: int
    batch: int
    rows: range

    def shared(self, what: str) -> torch.Generator:
        """A generator that is the same for all parts of the batch."""
        return generator(self.seed, self.step, what)

    def uniform(self, what: str, columns: int) -> Tensor:
        """Numbers in [0, 1) for the samples here, (samples, columns)."""
        return torch.rand(self.batch, columns, generator=self.shared(what))[self.rows.start : self.rows.stop]
