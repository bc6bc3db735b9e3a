"""What `tokens` decides of a network: what is read at its end, and how many tokens each block keeps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ...calibration.data import Part
from ...errors import CompressError
from ...model import Model
from ..base import PassContext, PassPlan
from ..teaching.task import first_batch
from .cost import Macs, macs_of
from .encoder import NoEncoderError, alike, token_network
from .greedy import fewer, greedy
from .judging import Judge, judge_on
from .options import TokensOptions
from .reading import tokens_read
from .schedule import Schedule
from .settings import Settings, blocks_of, set_counts, set_up
from .uniform import keeping, uniform

SAMPLES = 8
"""On which it is seen that what nothing reads is not needed."""
PROGRESS = 10
"""Schedules between two lines of progress."""


class Planning:
    """One run of the pass over one model."""

    def __init__(self, options: TokensOptions, model: Model, context: PassContext) -> None:
        self.options, self.model, self.context = options, model, context
        try:
            self.encoder, self.network = token_network(model.module, model.example_inputs)
        except NoEncoderError as error:
            raise CompressError(f"{options.name}: {error}; leave out the pass") from error
        self.blocks = blocks_of(self.network, self.encoder)
        self.notes = list[str]()
        self.tried = 0

    def plan(self) -> PassPlan:
        """Everything, as data."""
        schedule = self._schedule()
        if self.read is None and schedule.sites == 0:
            return PassPlan({}, {}, modified=False, notes=(f"all tokens stay: {self._why_all}",))
        settings = self._settings(schedule)
        return PassPlan(
            settings.to_json(),
            {},
            notes=(*self._told(schedule), *self.notes),
            details=self._details(schedule),
        )

    # -- what is read

    @cached_property
    def places(self) -> list[int]:
        """The tokens that an output depends on, behind the last block."""
        return tokens_read(self.network, self.model.example_inputs, self.encoder)

    @cached_property
    def read(self) -> int | None:
        """How many of the first tokens are read, where these are leading ones and all others can go; else None."""
        if not self.places or self.places[-1] >= self.encoder.leading:
            return None
        read = self.places[-1] + 1
        return read if self._goes_on_with(read) else None

    def _goes_on_with(self, read: int) -> bool:
        """Whether the network runs, and computes the same, where only so many tokens leave the last block."""
        whole = Settings(self.encoder, self._whole, read, read)
        smaller = replace(self.model, module=set_up(self.network, whole))
        calibration, _ = first_batch(self.context.data.calibration, SAMPLES, self.model.static_batch)
        try:
            return all(
                alike(self.model.run(*inputs), smaller.run(*inputs))
                for inputs in (self.model.example_inputs, calibration)
            )
        except Exception:  # code behind the blocks that counts on all tokens, however that shows
            return False

    @property
    def _why_all(self) -> str:
        if self.options.schedule is not None:
            return f"{self.options.schedule} keeps all"
        if not self.places:
            return "no output depends on any token behind the last block; is a last layer all zeros?"
        return "outputs depend on more than leading tokens behind the last block, and no target is given"

    @property
    def looks(self) -> int:
        """The leading tokens up to the last one that is read look at patches; all tokens, where patches are read."""
        return self.read or 0

    # -- how many stay

    @cached_property
    def cost(self) -> Macs:
        """Multiply-accumulates over schedules."""
        macs = self.model.facts().macs
        if macs is None:
            raise CompressError(f"{self.options.name}: {self.model.facts().macs_text}")
        return macs_of(self.blocks.each, self.encoder.leading, self.encoder.patches, macs, self.read)

    @cached_property
    def _sites(self) -> range:
        """The blocks that may lose tokens: not the last, where it drops what is not read, or merging does not pay."""
        last = len(self.blocks.each) - 1
        half = fewer(self._whole, last, merging=True, step=self.encoder.patches // 2)
        pays = half is not None and self.cost.of(half) < self.cost.of(self._whole)
        end = last + 1 if self.read is None and pays else last
        if self.options.start >= end:
            raise CompressError(
                f"{self.options.name}: start: of the {last + 1} blocks of {self.encoder.place} those from 0 to"
                f" {end - 1} may lose tokens, got {self.options.start}"
            )
        return range(self.options.start, end)

    @property
    def _whole(self) -> Schedule:
        return Schedule.whole(self.encoder.patches, len(self.blocks.each))

    @property
    def _prunes(self) -> bool:
        """Whether tokens may be dropped: what is read at the end must have become part of something."""
        return self.read is not None

    def _settings(self, schedule: Schedule) -> Settings:
        return Settings(self.encoder, schedule, self.looks, self.read)

    def _schedule(self) -> Schedule:
        options = self.options
        found = self._given(options.schedule) if options.schedule is not None else self._found()
        return found if self.read is None else found.without_the_last()

    def _found(self) -> Schedule:
        """By the target; all tokens stay without one."""
        options = self.options
        whole = self._whole.model_copy(update={"merge": options.merge or "mean"})
        if options.target is None:
            return whole
        limit = options.target * self.cost.whole
        self._require_reachable(whole, limit)
        alike = uniform(whole, self._sites, self.cost, limit, self._prunes)
        if options.method == "uniform" or alike == whole:
            return alike
        return self._better(alike, self._searched(whole, limit))

    def _given(self, path: Path) -> Schedule:
        found, patches, blocks = Schedule.read(path), self.encoder.patches, len(self.blocks.each)
        if len(found.blocks) != blocks:
            raise CompressError(
                f"{self.options.name}: {path}: a schedule of {len(found.blocks)} blocks, and {self.encoder.place} has"
                f" {blocks}"
            )
        scaled = found.scaled(patches)
        if self.options.merge is not None:
            scaled = scaled.model_copy(update={"merge": self.options.merge})
        given = zip(scaled.blocks, scaled.entering(), strict=True)
        if not self._prunes and any(kept.pruned < before for kept, before in given):
            raise CompressError(
                f"{self.options.name}: {path}: this schedule drops tokens, and here outputs depend on patches behind"
                " the last block, so that they can only be merged: find one for this network by a target"
            )
        return scaled

    def _require_reachable(self, whole: Schedule, limit: float) -> None:
        least = self.cost.of(keeping(0.0, whole, self._sites, self._prunes))
        if least > limit:
            raise CompressError(
                f"{self.options.name}: target: {self.options.target:g} of the multiply-accumulates cannot be reached:"
                f" with one patch token from block {self.options.start} on {least / self.cost.whole:.3f} are left;"
                " ask for more, or let tokens go earlier (start)"
            )

    def _searched(self, whole: Schedule, limit: float) -> Schedule:
        judge = self._judge(self.context.data.calibration)

        def harm(schedule: Schedule) -> float:
            self.tried += 1
            if self.tried % PROGRESS == 0:
                left = self.cost.of(schedule) / self.cost.whole
                self._say(f"{self.tried} schedules tried, {left:.2f} of the multiply-accumulates left")
            return self._unlike(judge, schedule)

        self._say(f"looking for a schedule, by {judge.samples} samples")
        return greedy(whole, self._sites, self.cost, limit, harm, self._prunes)

    def _better(self, alike: Schedule, searched: Schedule) -> Schedule:
        """The searched schedule, where it does no worse than the uniform one on samples that it was not found on."""
        judge = self._judge(self.context.data.validation)
        harms = [self._unlike(judge, each) for each in (searched, alike)]
        kept = harms[0] <= harms[1]
        self.notes.append(
            f"{'greedy' if kept else 'uniform'}: on {judge.samples} samples that neither was chosen by the outputs are"
            f" {harms[0]:.4g} unlike the whole network's with the searched schedule ({self.tried} were tried), and"
            f" {harms[1]:.4g} with the same share at each site"
        )
        return searched if kept else alike

    def _judge(self, part: Part) -> Judge:
        return judge_on(part, self.model, self.context, self.cost.whole)

    def _unlike(self, judge: Judge, schedule: Schedule) -> float:
        set_counts(self.blocks, self._settings(schedule))
        return judge.unlike(self.network)

    # -- what is told

    def _told(self, schedule: Schedule) -> Iterator[str]:
        if self.read is not None:
            yield (
                f"behind the last attention only the first {self.read} of {self._tokens} tokens count, and the others"
                f" are dropped there: outputs stay as they are, at {self._share(self._whole)} of the"
                " multiply-accumulates"
            )
        if schedule.sites:
            last = len(schedule.blocks) - (self.read is not None)
            counts = ", ".join(str(kept.merged) for kept in schedule.blocks[:last])
            yield (
                f"patch tokens after each block{'' if self.read is None else ' but the last'}: {counts} (of"
                f" {self.encoder.patches}), merged by {schedule.merge}, at"
                f" {self._share(schedule)} of the multiply-accumulates"
            )

    @property
    def _tokens(self) -> int:
        return self.encoder.leading + self.encoder.patches

    def _share(self, schedule: Schedule) -> str:
        return f"{self.cost.of(schedule) / self.cost.whole:.3f}"

    def _details(self, schedule: Schedule) -> dict[str, Any]:
        return {
            "tokens": {
                "place": self.encoder.place,
                "leading": self.encoder.leading,
                "schedule": schedule.model_dump(mode="json"),
                "read": self.read,
                "tried": self.tried,
            }
        }

    def _say(self, text: str) -> None:
        self.context.progress.say(f"  {self.options.name}: {text}")
