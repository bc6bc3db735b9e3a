"""The phases of `gates`: what can go, what goes for each target, its removal, and what is left trained."""

from __future__ import annotations

import copy
from functools import cached_property

from torch import nn

from ...calibration.fidelity import Compared
from ...calibration.latency_table import Size
from ...errors import CompressError
from ...model import Model
from ..base import PassContext, PassPlan
from ..channels.anatomy import LayerUse
from ..channels.dissect import dissect
from ..channels.units import Kept
from ..teaching.likeness import Likeness
from ..teaching.taps import Tapped
from ..training.stage import Stages
from .cost import Cost, cost_of
from .cuts import CutOut
from .decided import Decided, remembered
from .deciding import Deciding
from .elastic import Elastic, Nested, nested
from .fine_tuning import FineTuning
from .lessons import Lessons
from .options import NOTHING_HINT, GatesOptions
from .pieces import Latency
from .planned import as_data
from .shortfall import shortfall
from .table import read_table
from .told import Smaller, details, summary
from .training_mode import layers_train_alone
from .widths import require_reachable


class Phases:
    """One run of the pass over one model."""

    def __init__(self, options: GatesOptions, model: Model, context: PassContext) -> None:
        self.options, self.model, self.context = options, model, context
        self.notes, self.layers_alone = list[str](), False
        labelled = options.teacher_weight < 1
        self.stages = Stages(
            options.name,
            context.data.train,
            context,
            model.static_batch,
            labelled,
            options.without_samples,
        )
        self._say("finding what can be removed")
        self.dissected = dissect(model, options.name, options.rules)
        self.anatomy = self.dissected.anatomy
        self.units = self.anatomy.units

    def plan(self) -> PassPlan:
        """All phases, for one target after the other; the last one's network is handed on."""
        if reason := self.anatomy.why_nothing:
            raise CompressError(f"{self.options.name}: {reason}; {NOTHING_HINT}")
        for share in self.options.elastic or self.options.shares:
            require_reachable(share, self.cost, self.units, self.options.round_to, self.options.least)
        example = self.model.example_inputs
        self.layers_alone = layers_train_alone(
            self.model.module, example, self.model.run(*example), self.options.name
        )
        if self.options.elastic:
            series = self._nested()
        else:
            series = [self._smaller(share, before) for before, share in self._falling()]
        chosen = next(each for each in series if each.share == self.options.handed_on)
        structure, tensors = as_data(series, chosen)
        told = details(self.dissected, self.cost, series, chosen) | {"training": self.stages.histories}
        notes = [*summary(self.dissected, self.cost, chosen), *self.notes]
        return PassPlan(structure, tensors, notes=tuple(notes), details=told)

    def _falling(self) -> list[tuple[float, float]]:
        """Each target, and the one before it."""
        shares = self.options.shares
        return list(zip((1.0, *shares), shares, strict=False))

    # -- all sizes at once

    def _nested(self) -> list[Smaller]:
        """Networks that are nested in one, trained together and taken out."""
        options = self.options
        decided = remembered(self.context.scratch, "structures", self._structures)
        self.notes += [note for each in decided for note in each.notes]
        structures = [each.kept for each in decided]
        for share, kept in zip(options.elastic, structures, strict=True):
            self._note_shortfall(kept, share)
        together = Nested(self.network, self.dissected, structures)
        objective = Elastic(Tapped(together, [], self.layers_alone), self.likeness)
        smallest = objective.outputs_at(len(structures) - 1)
        self.notes += self.stages.train(
            "elastic, smallest size", objective, options.to_the_end, smallest, "elastic"
        )
        return [
            self._judged(Smaller(share, kept, {}, self.dissected.removal(kept), together.extracted(size)))
            for size, (share, kept) in enumerate(zip(options.elastic, structures, strict=True))
        ]

    def _structures(self) -> list[Decided]:
        options, notes = self.options, list[str]()
        structures = nested(
            self.anatomy,
            self.deciding.importance,
            self.cost,
            self.cost.pieces(),
            options.elastic,
            options.round_to,
            options.least,
            note=notes.append,
        )
        first, *rest = structures
        return [Decided(first, notes=tuple(notes)), *(Decided(kept) for kept in rest)]

    # -- one target

    def _smaller(self, share: float, before: float) -> Smaller:
        """The network of one target: decided, cut, repaired, trained and judged."""
        decided = self.deciding.decided(share, before)
        self._note_shortfall(decided.kept, share)
        cut = self._cut(decided.kept, share)
        self._fine_tune(cut.network, share)
        return self._judged(Smaller(share, decided.kept, decided.effects, cut.removal, cut.network))

    def _note_shortfall(self, kept: Kept, share: float) -> None:
        options = self.options
        note = shortfall(kept, self.cost, share, self.units, options.round_to, options.least)
        self.notes += [note] if note else []

    def _cut(self, kept: Kept, share: float) -> CutOut:
        """What is left after a removal, refitted."""
        self._say(f"{share:g}: refitting what is left")
        cut = self.deciding.cuts.of(kept)
        self.deciding.cuts.forget()  # it trains from now on
        self.notes += cut.notes
        return cut

    def _fine_tune(self, network: nn.Module, share: float) -> None:
        objective = FineTuning(Tapped(network, [], self.layers_alone), self.likeness)
        self.notes += self.stages.train(
            "fine-tuning",
            objective,
            self.options.training,
            judged=objective.outputs,
            kept_as=f"fine-tuning-{share:g}",
        )
        network.eval()

    def _judged(self, smaller: Smaller) -> Smaller:
        """With the validation metric and how alike it answers to the whole network."""
        found = self.model.successor(smaller.network, self.model.form)
        forward, batch = found.in_batches()
        beside = Compared(forward, self.model.in_batches()[0])
        part = self.context.data.validation
        metric = self.context.metric.measure(beside, part, batch).record
        return smaller.judged(found.facts(), metric, beside.record(part.name))

    # -- what all targets share

    @cached_property
    def cost(self) -> Cost:
        """What is to become smaller."""
        return cost_of(self.options.cost, self.anatomy, self._latency())

    def _latency(self) -> Latency | None:
        """Milliseconds by a device's table, where that is the cost; CompressError for one of another network."""
        if self.options.cost != "latency":
            return None
        if self.options.table is not None:
            table = read_table(self.options.name, self.options.table, self.context.batch)
            where = str(self.options.table)
            table.require_layers({layer.name: _size(layer) for layer in self.anatomy.layers}, where)
            self.notes += table.measured_otherwise(self.context.ends_in, self.context.machines, where)
        elif self.context.latency_table is not None:
            table = self.context.latency_table(self.model)
        else:
            raise CompressError(
                f"{self.options.name}: cost: latency needs a device's table: name one with `table`, which"
                " `compress tabulate` writes, or run a recipe whose first target can be measured"
            )
        self.notes.append(table.error_note)
        return table.latency

    @cached_property
    def lessons(self) -> Lessons:
        """Samples to fit to and to judge by."""
        macs = sum(term.whole for layer in self.anatomy.layers for term in layer.macs)
        return Lessons(self.options, self.model, self.context, macs)

    @cached_property
    def likeness(self) -> Likeness:
        """What is learned from."""
        return self.lessons.likeness()

    @cached_property
    def deciding(self) -> Deciding:
        """Says what stays."""
        return Deciding(
            self.options,
            self.dissected,
            self.model.module,
            self.network,
            self.layers_alone,
            self.cost,
            self.lessons,
            self.stages,
            self.notes,
            self._say,
        )

    @cached_property
    def network(self) -> nn.Module:
        """A copy of the network that gates are trained in, whole in its widths."""
        return copy.deepcopy(self.model.module)

    def _say(self, what: str) -> None:
        self.context.progress.say(f"  {self.options.name}: {what}")


def _size(layer: LayerUse) -> Size:
    return layer.inputs.size, layer.outputs.size, round(sum(term.whole for term in layer.macs))
