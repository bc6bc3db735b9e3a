"""Where the training of `l2` starts: codes in units by importance, errors compensated, at the size asked for."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, fx

from ...errors import CompressError
from ...model import CodedTensor, Model
from ...progress import Progress
from .coded import Codes, codes_for, insert_codes
from .compensation import compensate
from .counter import alike, entropy_bits
from .importance import units
from .integers import Integers
from .names import TransformName
from .rounding import rounded
from .stored import bits_taken, rebuilt, wide_in
from .transforms import largest_weight

STEP_RANGE = (2.0**-40, 2.0**20)
FINEST, COARSEST = (math.log(step) for step in STEP_RANGE)
NEAR = 0.002
"""How precisely a step is searched for by the entropy of its codes."""
MOST_REST = 0.8
"""Share of the target that graph, tables and values may take in an estimate."""
CLOSE = 0.005
"""The search for a size ends this near below it."""
SEARCHES = 12
BITS_FOR_A_STEP = 0.75
"""What a weight of few codes saves, about, where its step is doubled."""
FIRST_REACH = 1.0
"""How far the search goes at first, in the logarithm of the step; twice as far each time that it goes on."""


class OutOfReachError(CompressError):
    """No codes make the file so small."""


@dataclass
class Coding:
    """A network whose tensors are codes. step: the one that their units follow from."""

    network: fx.GraphModule
    codes: dict[str, Codes]
    step: float

    def coded(self, strength: float = 0.0) -> dict[str, CodedTensor]:
        """What is stored of every tensor that is not wide, `strength` being that of the rate in rounding."""
        return {
            name: each.coded(rounded(each, strength)) for name, each in self.codes.items() if not each.wide
        }


class File:
    """What the packed file takes: exactly, or by the count of its codes and what else it took the last time."""

    def __init__(self, model: Model, packed_bytes: Callable[[Model], int]) -> None:
        self.model, self.packed_bytes = model, packed_bytes
        self.rest = 0.0

    def weigh(self, coding: Coding, stored: Mapping[str, CodedTensor]) -> int:
        """Exactly, which takes an export."""
        size = self.packed_bytes(rebuilt(self.model, stored, wide_in(coding.codes)))
        self.rest = size - bits_of(stored) / 8
        return size

    def estimate(self, bits: float) -> float:
        """The size with codes that the counter finds to take so many bits."""
        return bits / 8 + self.rest


@dataclass(frozen=True)
class Start:
    """A captured network and what was seen of it: the Fisher information of its tensors, the moments of its layers'
    inputs, both by name, and the axes that `codable` tells. integers: the weights that are INT8 already."""

    graph: fx.GraphModule
    axes: Mapping[str, int | None]
    integers: Mapping[str, Integers]
    fisher: Mapping[str, Tensor]
    moments: Mapping[str, Tensor]
    transform: TransformName
    file: File
    progress: Progress

    def nearest(self, target: float) -> Coding:
        """Codes rounded to the nearest whose estimate meets a target of bytes."""
        allowed = target - min(self.file.rest, MOST_REST * target)
        low, high = STEP_RANGE
        while high / low > 1 + NEAR:
            step = math.sqrt(low * high)
            low, high = (low, step) if self._bits(step) / 8 <= allowed else (step, high)
        codes = self._codes(high)
        return Coding(insert_codes(self.graph, codes), codes, high)

    def _codes(self, step: float) -> dict[str, Codes]:
        made = units(self.graph, self.axes, self.fisher, step, largest_weight(self.transform))
        made |= {name: each.unit(made[name].values) for name, each in self.integers.items()}
        return codes_for(self.graph, made, self.transform)

    def _bits(self, step: float) -> float:
        symbols = [each.symbols() for each in self._codes(step).values()]
        return sum(entropy_bits(each, alike(each)) for each in symbols)

    def compensated(self, coding: Coding, target: float) -> Coding:
        """The same transforms at another step, errors compensated, that meet a target of bytes.

        Raises OutOfReachError where not even codes of zeros do.
        """
        count = sum(each.latent.numel() for each in coding.codes.values())
        fitting: tuple[int, Coding, float] | None = None
        large: tuple[float, float] | None = None
        small: tuple[float, float] | None = None
        place, reach = math.log(coding.step), FIRST_REACH
        for _ in self.progress.track(range(SEARCHES), "l2: compensating errors", SEARCHES):
            found = self._at(math.exp(place), coding)
            stored = found.coded()
            size = self.file.weigh(found, stored)
            if size <= target:
                small = (place, size)
                if fitting is None or size > fitting[0]:
                    fitting = size, found, self.file.rest
                if size >= (1 - CLOSE) * target:
                    break
            else:
                large = (place, size)
                if place == COARSEST or (bits_of(stored) == 0 and len(stored) == len(found.codes)):
                    break
            place = min(max(_next_place(large, small, reach, target, count), FINEST), COARSEST)
            if large is None and place == FINEST:
                break
            reach *= 2
        if fitting is None:
            raise OutOfReachError(
                f"l2: {target:,.0f} bytes cannot be reached: the coarsest codes make a file of {size:,}; ask for a"
                " larger one"
            )
        _, found, self.file.rest = fitting
        return found

    def _at(self, step: float, learned: Coding) -> Coding:
        codes = self._codes(step)
        for name, each in codes.items():
            if name in learned.codes:
                each.learn_from(learned.codes[name])
            if name in self.moments:
                compensate(each, self.moments[name])
        return Coding(insert_codes(self.graph, codes), codes, step)


def _next_place(
    large: tuple[float, float] | None,
    small: tuple[float, float] | None,
    reach: float,
    target: float,
    count: int,
) -> float:
    """Where the size should meet the target: between a place of larger and one of smaller files on a line, else by what
    a weight saves.

    Each place with its size; reach: the furthest to go beyond the only one.
    """
    aim = (1 - CLOSE / 2) * target
    if large is not None and small is not None:
        (first, more), (last, less) = large, small
        share = (more - aim) / (more - less)
        return first + min(max(share, 0.1), 0.9) * (last - first)
    [(place, size)] = [found for found in (large, small) if found is not None]
    wanted = (size - aim) * 8 / (BITS_FOR_A_STEP * max(1, count)) * math.log(2)
    least = reach / 4 if reach > FIRST_REACH else 0.0  # what was estimated before was too near
    return place + math.copysign(min(max(abs(wanted), least), reach), wanted)


def bits_of(stored: Mapping[str, CodedTensor]) -> float:
    """Bits of all coded tensors, by the counter."""
    return sum(bits_taken(each) for each in stored.values())
