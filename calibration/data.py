"""The samples that decide numbers: streamed in batches, never held whole unless the source holds them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Sample = tuple[tuple[Tensor, ...], Tensor]
"""Inputs without the batch dimension, and the label (a scalar integer tensor for classification)."""


@dataclass(frozen=True)
class Part:
    """One part of the data. `samples` may read lazily: only one batch is alive at a time."""

    name: str
    samples: Sequence[Sample]

    def __len__(self) -> int:
        return len(self.samples)

    def head(self, count: int) -> Part:
        """The first `count` samples (all, when there are fewer)."""
        return self.between(0, count)

    def between(self, start: int, stop: int) -> Part:
        """The samples from `start` to before `stop`, as far as there are."""
        return self.picked(range(len(self.samples))[start:stop])

    def picked(self, indices: Sequence[int]) -> Part:
        """The samples at `indices`, in that order."""
        return Part(self.name, Subset(self.samples, indices))

    def joined(self, other: Part) -> Part:
        """The samples of this part, and then those of another."""
        return Part(f"{self.name} and {other.name}", Joined(self.samples, other.samples))

    def example(self) -> tuple[Tensor, ...]:
        """The first sample as a batch of one: shape (1, ...) each, as `Model.example_inputs` has them."""
        return tuple(x.unsqueeze(0) for x in self.samples[0][0])

    def batches(self, size: int) -> Iterator[tuple[tuple[Tensor, ...], Tensor]]:
        """Batches of `size` samples in order, the last one shorter: inputs and labels (batch, ...)."""
        for start in range(0, len(self.samples), size):
            yield self.batch(range(start, min(start + size, len(self.samples))))

    def batch(self, indices: Sequence[int]) -> tuple[tuple[Tensor, ...], Tensor]:
        """The samples at `indices` as one batch: inputs and labels (batch, ...)."""
        chosen = [self.samples[i] for i in indices]
        inputs = tuple(torch.stack(column) for column in zip(*(x for x, _ in chosen), strict=True))
        return inputs, torch.stack([y for _, y in chosen])


@dataclass(frozen=True)
class Subset(Sequence[Sample]):
    """The samples at `indices`, read when asked for."""

    samples: Sequence[Sample]
    indices: Sequence[int]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:  # type: ignore[override]
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.samples[self.indices[index]]


@dataclass(frozen=True)
class Joined(Sequence[Sample]):
    """The samples of one sequence after those of another, read when asked for."""

    first: Sequence[Sample]
    last: Sequence[Sample]

    def __len__(self) -> int:
        return len(self.first) + len(self.last)

    def __getitem__(self, index: int) -> Sample:  # type: ignore[override]
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.first[index] if index < len(self.first) else self.last[index - len(self.first)]


@dataclass(frozen=True)
class DataParts:
    """Disjoint parts. Passes look at train, calibration and validation; only the verdict looks at `test`.

    manifest: SHA-256 over the parts' sample digests, so that a changed data set is another data set.
    notes: what a reader of the report must know ("3 test samples also occur in train").
    """

    train: Part
    calibration: Part
    validation: Part
    test: Part | None
    manifest: str
    notes: tuple[str, ...] = ()

    @property
    def judge(self) -> Part:
        """The part that the verdict is taken on: test, else validation."""
        return self.test or self.validation
