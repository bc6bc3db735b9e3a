"""What `tokens` decides of a network: what is read at its end, and how many tokens each block keeps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ...errors import CompressError
from ...model import Model
from ..base import PassContext, PassPlan
from ..teaching.task import first_batch
from .cost import Macs, macs_of
from .encoder import NoEncoderError, alike, token_network
from .finding import Finding
from .options import TokensOptions
from .pictures import pictures
from .reading import tokens_read
from .schedule import Schedule
from .settings import Settings, blocks_of, set_up

SAMPLES = 8
"""On which it is seen that what nothing reads is not needed."""


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

    def plan(self) -> PassPlan:
        """Everything, as data."""
        schedule = self._schedule()
        if self.read is None and schedule.sites == 0:
            notes = (f"all tokens stay: {self._why_all}", *self.notes)
            return PassPlan({}, {}, modified=False, notes=notes)
        return PassPlan(
            self.finding.settings(schedule).to_json(),
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
        if self.options.searches:
            return "no schedule with fewer is better for what was asked"
        return "outputs depend on more than leading tokens behind the last block, and no target is given"

    # -- how many stay

    @cached_property
    def macs(self) -> Macs:
        """Multiply-accumulates over schedules."""
        macs = self.model.facts().macs
        if macs is None:
            raise CompressError(f"{self.options.name}: {self.model.facts().macs_text}")
        return macs_of(self.blocks.each, self.encoder.leading, self.encoder.patches, macs, self.read)

    @cached_property
    def finding(self) -> Finding:
        """The search."""
        return Finding(
            self.options,
            self.model,
            self.context,
            self.network,
            self.encoder,
            self.read,
            self.macs,
            self.notes,
        )

    @property
    def _whole(self) -> Schedule:
        return Schedule.whole(self.encoder.patches, len(self.blocks.each))

    def _schedule(self) -> Schedule:
        if self.options.searches:
            found = self.finding.found()
        else:
            found = self._whole if self.options.schedule is None else self._given(self.options.schedule)
        return found if self.read is None else found.without_the_last()

    def _given(self, path: Path) -> Schedule:
        found, patches, blocks = Schedule.read(path), self.encoder.patches, len(self.blocks.each)
        if len(found.blocks) != blocks:
            raise CompressError(
                f"{self.options.name}: {path}: a schedule of {len(found.blocks)} blocks, and {self.encoder.place} has"
                f" {blocks}"
            )
        asked = {name: getattr(self.options, name) for name in ("merge", "matching")}
        rules = {name: rule for name, rule in asked.items() if rule is not None}
        scaled = found.model_copy(update=rules).scaled(patches)
        given = zip(scaled.blocks, scaled.entering(), strict=True)
        if self.read is None and any(kept.pruned < before for kept, before in given):
            raise CompressError(
                f"{self.options.name}: {path}: this schedule drops tokens, and here outputs depend on patches behind"
                " the last block, so that they can only be merged: find one for this network by a target"
            )
        return scaled

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
                f" {self.encoder.patches}), matched by {schedule.matching},"
                f" merged by {schedule.merge}, at {self._share(schedule)} of the multiply-accumulates"
            )

    @property
    def _tokens(self) -> int:
        return self.encoder.leading + self.encoder.patches

    def _share(self, schedule: Schedule) -> str:
        return f"{self.macs.of(schedule) / self.macs.whole:.3f}"

    def _details(self, schedule: Schedule) -> dict[str, Any]:
        trained = {"training": self.finding.stages.histories} if self.options.method == "learned" else {}
        return trained | {
            "tokens": {
                "place": self.encoder.place,
                "leading": self.encoder.leading,
                "schedule": schedule.model_dump(mode="json"),
                "read": self.read,
                "tried": self.finding.harms.tried,
                "pictures": self._pictures(schedule),
            }
        }

    def _pictures(self, schedule: Schedule) -> list[dict[str, Any]]:
        settings = self.finding.settings(schedule)
        return pictures(self.network, settings, self.model, self.context, self.options.pictures)
