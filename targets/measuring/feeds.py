"""What a launch is fed: inputs in a stated order, one after the other, and from the first one again after the last."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..arrays import read_arrays
from ..base import Feeds
from .digests import outputs_digest

EXAMPLE = "the example input, repeated"
MOST_BYTES = 1 << 30
"""Most bytes of all inputs of a launch together, which its process holds."""


@dataclass(frozen=True, eq=False)
class FeedSequence:
    """Inputs of inferences in order: timed sample i of a launch is of inference input i modulo their number.

    feeds: each a batch as the engine takes it, all of the same names and shapes; origin: what they are, in words that
    follow "over".
    """

    feeds: tuple[Feeds, ...]
    origin: str = ""

    def __len__(self) -> int:
        return len(self.feeds)

    @cached_property
    def sha256(self) -> str:
        """Digest of all inputs bit for bit, each one's arrays by name; of a single one as golden files have it."""
        return outputs_digest([feeds[name] for feeds in self.feeds for name in sorted(feeds)])


def repeated(feeds: Feeds, origin: str = EXAMPLE) -> FeedSequence:
    """One input again and again."""
    return FeedSequence((feeds,), origin)


def whole_walks(iterations: int, inputs: int) -> int:
    """The least number of samples, `iterations` or more, in which each of so many inputs comes equally often."""
    return -(-iterations // inputs) * inputs


def save_feeds(sequence: Sequence[Feeds], folder: Path) -> Path:
    """Write inputs of the same names, in order, where workers can read them."""
    handle, name = tempfile.mkstemp(dir=folder, suffix=".npz")
    with os.fdopen(handle, "wb") as file:
        # keyed by position: input names may hold characters that a zip member cannot
        names = list(sequence[0])
        in_order = [feeds[name] for feeds in sequence for name in names]
        arrays: dict[str, Any] = {f"array_{i}": array for i, array in enumerate(in_order)}
        np.savez(file, names=np.array(names), **arrays)
    return Path(name)


def read_feeds(path: Path) -> tuple[Feeds, ...]:
    """What `save_feeds` wrote; ValueError for a file in which an input is incomplete."""
    with path.open("rb") as file:
        arrays = read_arrays(file)
    names = [str(name) for name in arrays.pop("names")]
    count, rest = divmod(len(arrays), max(1, len(names)))
    if rest or bool(names) != bool(count):
        raise ValueError(f"{len(arrays)} arrays of inputs that take {len(names)} each")
    return tuple(
        {name: arrays[f"array_{number * len(names) + i}"] for i, name in enumerate(names)}
        for number in range(count or 1)
    )
