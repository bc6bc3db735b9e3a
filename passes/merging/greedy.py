"""A schedule by greedy search: again and again the step goes that harms least for what it saves.

A step takes some tokens from one block on, by pruning or by merging. What it harms is how unlike the whole network's
the outputs become, on samples; no gradients are needed. Harm rises as more is gone, so that what a step harmed earlier
is mostly a lower bound: only the step that seems best is measured anew (Minoux' lazy greedy, 1978), which takes
some two measurements a step in place of all.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence

from .cost import Cost
from .schedule import Schedule

STEPS = 24
"""Steps that all tokens would be taken in."""
OPENING = (1, 3, 6, 9, 15, STEPS)
"""Steps that may be taken at once at a block that tokens do not go from yet."""
Harm = Callable[[Schedule], float]
"""How unlike the whole network one with this schedule is."""


def greedy(
    start: Schedule, sites: Sequence[int], cost: Cost, limit: float, harm: Harm, prunes: bool
) -> Schedule:
    """From `start` to a cost of at most `limit`, or to where no step saves anything.

    harm: is asked for the same schedule again. prunes: whether tokens may be dropped, and not only merged.
    """
    kinds = (False, True) if prunes else (True,)
    search = _Search(sites, kinds, cost, harm, max(1, start.patches // STEPS))
    schedule = start
    while cost.of(schedule) > limit:
        taken = search.best(schedule)
        if taken is None:
            break
        before, schedule = schedule, taken
        if cost.of(schedule) <= limit:
            schedule = _nearest(before, schedule, cost, limit)
    return schedule


_Step = tuple[float, int, bool]
"""What it harmed for what it saves, its block, and whether tokens are merged there, and not dropped."""


class _Search:
    """Steps by what they harmed for what they save when they were last measured, least first."""

    def __init__(
        self, sites: Sequence[int], kinds: tuple[bool, ...], cost: Cost, harm: Harm, step: int
    ) -> None:
        self._cost, self._harm, self._step = cost, harm, step
        self._queue = [(0.0, block, merging) for block in sites for merging in kinds]

    def best(self, schedule: Schedule) -> Schedule | None:
        """The schedule after the best step; None where none is left."""
        anew: dict[tuple[int, bool], Schedule] = {}
        aside, found = list[_Step](), None
        while self._queue and found is None:
            step = heapq.heappop(self._queue)
            _, block, merging = step
            if (block, merging) in anew:
                aside.append(step)
                found = anew[block, merging]
            else:
                steps = self._steps(schedule, block, merging)
                saving = [after for after in steps if self._saved(schedule, after) > 0]
                if not self._cost.by_site:
                    saving = saving[:1]
                if not saving:
                    aside.append(
                        step
                    )  # nothing can go, or costs more than it saves, until fewer tokens come this far
                    continue
                worth, after = min(
                    ((self._worth(schedule, after), after) for after in saving), key=lambda pair: pair[0]
                )
                anew[block, merging] = after
                heapq.heappush(self._queue, (worth, block, merging))
        for step in aside:
            heapq.heappush(self._queue, step)
        return found

    def _steps(self, schedule: Schedule, block: int, merging: bool) -> list[Schedule]:
        """One step at a block; of several sizes where it is the first there, which may cost something of its own."""
        kept, given = schedule.blocks[block], schedule.entering()[block]
        first = kept.pruned == kept.merged if merging else kept.pruned == given
        sizes = OPENING if first else OPENING[:1]
        steps = (fewer(schedule, block, merging, size * self._step) for size in sizes)
        return [after for after in steps if after is not None]

    def _saved(self, schedule: Schedule, after: Schedule) -> float:
        return self._cost.of(schedule) - self._cost.of(after)

    def _worth(self, schedule: Schedule, after: Schedule) -> float:
        return (self._harm(after) - self._harm(schedule)) / self._saved(schedule, after)


def fewer(schedule: Schedule, block: int, merging: bool, step: int) -> Schedule | None:
    """With `step` patch tokens fewer from this block on, or as many as can go; None where none can."""
    kept = schedule.blocks[block]
    going = min(step, schedule.room(block, merging))
    if going < 1:
        return None
    left = kept.merged - going
    pruned = [each.pruned for each in schedule.blocks]
    merged = [
        min(each.merged, left) if index >= block else each.merged
        for index, each in enumerate(schedule.blocks)
    ]
    if not merging:
        pruned[block] -= going
    return schedule.with_counts(pruned, merged)


def _nearest(before: Schedule, after: Schedule, cost: Cost, limit: float) -> Schedule:
    """Of the schedules from `before` to `after`, token by token, the first that costs at most `limit`."""
    return next((each for each in _between(before, after) if cost.of(each) <= limit), after)


def _between(before: Schedule, after: Schedule) -> Iterator[Schedule]:
    most = max(b.merged - a.merged for b, a in zip(before.blocks, after.blocks, strict=True))
    for step in range(1, most):
        pruned = [max(a.pruned, b.pruned - step) for b, a in zip(before.blocks, after.blocks, strict=True)]
        merged = [max(a.merged, b.merged - step) for b, a in zip(before.blocks, after.blocks, strict=True)]
        yield before.with_counts(pruned, merged)
