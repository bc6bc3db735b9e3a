"""How many tokens each block keeps for a target: the schedule that is searched, learned or uniform, and how it did."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from torch import nn

from ...calibration.data import Part
from ...errors import CompressError
from ...model import Model
from ..base import PassContext
from ..training.stage import Stages
from .cost import Cost, Macs
from .drop import MetricDrop, most_within
from .encoder import Encoder
from .greedy import fewer, greedy
from .judging import Judge, judge_on
from .known_harms import KnownHarms
from .learning import learned
from .options import TokensOptions
from .replay import MOST_BYTES
from .schedule import Schedule
from .settings import Settings, blocks_of, set_counts, set_up
from .sites import spread, with_fewer_sites
from .timing import CLOSE, Timing
from .uniform import HALF, keeping, uniform

PROGRESS = 10
"""Schedules between two lines of progress."""
CORRECTIONS = 2


@dataclass
class Finding:
    """One search. network: with TokenBlocks. read: how many of the first tokens count at the end, None: patches do.

    macs: multiply-accumulates over schedules; notes: takes what is told of the search.
    """

    options: TokensOptions
    model: Model
    context: PassContext
    network: nn.Module
    encoder: Encoder
    read: int | None
    macs: Macs
    notes: list[str]

    def found(self) -> Schedule:
        """The schedule; CompressError where the target cannot be reached."""
        if self._is_met_whole:
            self.notes.append("the target is met with all tokens that are read, and no others go")
            return self.whole
        max_drop = self.options.max_drop
        found = self._for_a_target(self._limit) if max_drop is None else self._for_a_drop(max_drop)
        if self.timing is not None:
            self.notes.append(self.timing.told(found, None if max_drop is not None else self._share))
        return found

    # -- what is given

    @cached_property
    def whole(self) -> Schedule:
        """All tokens stay."""
        plain = Schedule.whole(self.encoder.patches, len(self.macs.blocks))
        rules = {"merge": self.options.merge_here, "matching": self.options.matching_here}
        return plain.model_copy(update=rules)

    @property
    def prunes(self) -> bool:
        """Whether tokens may be dropped: what is read at the end must have become part of something."""
        return self.read is not None

    @cached_property
    def sites(self) -> range:
        """The blocks that may lose tokens: not the last, where it drops what is not read, or merging does not pay."""
        last = len(self.macs.blocks) - 1
        half = fewer(self.whole, last, merging=True, step=self.encoder.patches // 2)
        pays = half is not None and self.macs.of(half) < self.macs.of(self.whole)
        end = last + 1 if self.read is None and pays else last
        if self.options.first >= end:
            default = "" if self.options.start is not None else f" (as {self.options.matching_here} does)"
            raise CompressError(
                f"{self.options.name}: start: tokens can go from the blocks 0 to {end - 1} of the {last + 1} in"
                f" {self.encoder.place}, got {self.options.first}{default}; give one of these"
            )
        return range(self.options.first, end)

    @cached_property
    def cost(self) -> Cost:
        """What is to become less."""
        if self.timing is None:
            return self.macs
        self.timing.fit(self.whole, self.sites, self.prunes)
        return self.timing.fitted

    @cached_property
    def timing(self) -> Timing | None:
        """Networks timed on the device, where time is the cost."""
        if self.options.cost != "latency":
            return None
        return Timing(self.options.name, self.model, self.context, self.built, self.macs)

    def settings(self, schedule: Schedule) -> Settings:
        """All that makes the network with a schedule. Who looks: leading tokens that are read, else all tokens."""
        return Settings(self.encoder, schedule, self.read or 0, self.read)

    def with_schedule(self, schedule: Schedule) -> Model:
        """The network in which these tokens stay, until another is asked for: they are one and the same module."""
        set_counts(blocks_of(self.network, self.encoder), self.settings(schedule))
        return replace(self.model, module=self.network)

    def built(self, schedule: Schedule) -> Model:
        """A network of its own with a schedule, as it is handed on."""
        found = schedule if self.read is None else schedule.without_the_last()
        return replace(self.model, module=set_up(self.network, self.settings(found)))

    @property
    def _is_met_whole(self) -> bool:
        """Whether all tokens may stay, as far as that is known without a search."""
        options = self.options
        if options.max_drop is not None:
            return False
        if self.timing is None:
            assert options.target is not None
            return self.macs.of(self.whole) <= options.target * self.macs.whole
        times = self.timing.measured(self.whole)
        if options.target is not None:
            return times.ratio <= options.target
        assert options.target_ms is not None
        return times.ratio * times.median_whole_ms <= options.target_ms

    @property
    def _share(self) -> float:
        """The share of the cost that is to be left."""
        options = self.options
        if options.target_ms is not None:
            return options.target_ms / self.cost.whole
        assert options.target is not None
        return options.target

    @property
    def _limit(self) -> float:
        options, limit = self.options, self._share * self.cost.whole
        fewest = [*self._ways, *([(self.sites, 0.0)] if self.prunes else [])]
        least = min(self.cost.of(keeping(0.0, self.whole, *way)) for way in fewest)
        if least > limit:
            asked, left = f"target: {options.target:g}", f"{least / self.cost.whole:.3f} of it"
            if options.target_ms is not None:
                asked, left = f"target_ms: {limit:g}", f"{least:.3g} of its {self.cost.whole:.3g} ms"
            earlier = ", or let tokens go earlier (start)" if options.first else ""
            raise CompressError(
                f"{options.name}: {asked} of the {self.cost.unit} cannot be reached: with as few patch tokens as can be"
                f" left from block {options.first} on {left} are left; ask for more{earlier}"
            )
        return limit

    # -- how it is found

    @property
    def _ways(self) -> list[tuple[Sequence[int], float]]:
        """Sites at which the same share may go, and how much of it is merged; where sites take time, also at fewer."""
        joinings = (HALF, 0.0) if self.prunes else (1.0,)
        if not self.cost.by_site:
            return [(self.sites, joinings[0])]
        return [(some, joining) for some in spread(self.sites) for joining in joinings]

    def _for_a_target(self, limit: float) -> Schedule:
        alike = self._as_measured(self._uniform(limit), limit, lambda lower, _: self._uniform(lower))
        if self.options.method == "uniform":
            return alike
        found = self._learned(limit, alike) if self.options.method == "learned" else self.whole
        found = self._as_measured(self._searched(limit, found), limit, self._searched)
        if self.cost.of(found) > limit:
            self.notes.append("uniform: the search found no schedule that meets the target")
            return alike
        return self._better(alike, found, "on {n} samples that neither was chosen by")

    def _for_a_drop(self, max_drop: float) -> Schedule:
        drop = MetricDrop(self.model, self.context, self.with_schedule)
        search = self._searched if self.options.method == "greedy" else lambda limit, _: self._uniform(limit)
        self._say(f"looking for the fewest tokens at {max_drop:g} points lost")
        found = most_within(self.whole, self.cost, search, drop.points, max_drop)
        alike = self._uniform(self.cost.of(found))
        if self.options.method == "greedy" and drop.points(alike) <= max_drop:
            found = self._better(alike, found, "on {n} samples of those that the metric was measured on")
        self.notes.append(drop.told(found))
        return found

    def _uniform(self, limit: float) -> Schedule:
        """With one share at all sites; where these take time, at those of some whose schedule does least harm."""
        each = [uniform(self.whole, sites, self.cost, limit, joining) for sites, joining in self._ways]
        if self.prunes and all(self.cost.of(schedule) > limit for schedule in each):
            each = [uniform(self.whole, self.sites, self.cost, limit, 0.0)]  # merging alone leaves too many
        fit = [schedule for schedule in each if self.cost.of(schedule) <= limit] or each[:1]
        return fit[0] if len(fit) == 1 else min(fit, key=self.harms)

    def _searched(self, limit: float, start: Schedule) -> Schedule:
        self._say(f"looking for a schedule, by {self._fitting.samples} samples")
        found = greedy(start, self.sites, self.cost, limit, self.harms, self.prunes)
        if not self.cost.by_site:
            return found
        return with_fewer_sites(found, self.cost, limit, self.harms, self.prunes)

    def _learned(self, limit: float, start: Schedule) -> Schedule:
        settings = self.settings(start)
        return learned(
            self.options, self.model, self.network, settings, self.sites, self.cost, limit, self.stages
        )

    @cached_property
    def stages(self) -> Stages:
        """How counts are learned."""
        train = self.context.data.train
        without = "take method: greedy"
        static = self.model.static_batch
        return Stages(self.options.name, train, self.context, static, labelled=False, without_samples=without)

    def _as_measured(
        self, found: Schedule, limit: float, search: Callable[[float, Schedule], Schedule]
    ) -> Schedule:
        """Where the device says otherwise than was predicted, looked for again with as much less."""
        for _ in range(CORRECTIONS if self.timing is not None else 0):
            assert self.timing is not None
            over = self.timing.measured(found).ratio * self.cost.whole / limit
            if over <= CLOSE:
                break
            self._say(f"measured {over:.3f} times the target: more tokens go")
            found = search(self.cost.of(found) / over, found)
        return found

    def _better(self, alike: Schedule, found: Schedule, where: str) -> Schedule:
        """The found schedule, where it does no worse than the uniform one on samples that it was not found on."""
        judge, method = self._judge(self.context.data.validation, again=False), self.options.method
        harms = [judge.outputs_unlike(self.with_schedule(each).module) for each in (found, alike)]
        kept = harms[0] <= harms[1]
        how = f"searched schedule ({self.harms.tried} were tried)" if method == "greedy" else "learned one"
        self.notes.append(
            f"{method if kept else 'uniform'}: {where.format(n=judge.samples)} the outputs are {harms[0]:.4g} unlike"
            f" the whole network's with the {how}, and {harms[1]:.4g} with the same share at each site"
        )
        return found if kept else alike

    @cached_property
    def harms(self) -> KnownHarms:
        """How unlike the whole network's the tokens are that outputs are made of, over schedules."""
        scratch = self.context.scratch
        return KnownHarms(self._harm, None if scratch is None else scratch / "harms.jsonl")

    def _harm(self, schedule: Schedule) -> float:
        if (tried := self.harms.tried + 1) % PROGRESS == 0:
            left = self.cost.of(schedule) / self.cost.whole
            self._say(f"{tried} schedules tried, {left:.2f} of the {self.cost.unit} left")
        return self._fitting.tokens_unlike(self.with_schedule(schedule).module)

    @cached_property
    def _fitting(self) -> Judge:
        return self._judge(self.context.data.calibration, again=True)

    def _judge(self, part: Part, again: bool) -> Judge:
        whole, most_bytes = self.with_schedule(self.whole), MOST_BYTES if again else 0
        return judge_on(part, whole, self.context, self.macs.whole, self.encoder.place, self.read, most_bytes)

    def _say(self, text: str) -> None:
        self.context.progress.say(f"  {self.options.name}: {text}")
