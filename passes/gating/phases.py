"""The phases of `gates`: what can go, what goes for each target, its removal, and what is left trained."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor, nn

from ...calibration.fidelity import Compared
from ...calibration.latency_table import LatencyTable
from ...errors import CompressError
from ...model import Model
from ..base import PassContext, PassPlan
from ..channels.dissect import Rules, dissect
from ..channels.gated import Gated, fixed
from ..channels.removal import Removal, removed
from ..channels.units import Gates, Kept, gates_of
from ..teaching.likeness import Likeness
from ..teaching.taps import Tapped
from ..training.stage import Stages
from .batch_norm import norms_of, reestimate
from .check import Effect, exchange, leave_one_out
from .cost import Cost, cost_of
from .elastic import Elastic, Nested, nested
from .fine_tuning import FineTuning
from .gate import Gate
from .held_out import keep_where_no_worse
from .importance import standing, taylor, worth
from .lessons import Lessons
from .objective import Gating, Ramp
from .options import GatesOptions
from .pieces import Latency
from .planned import as_data
from .projection import project, shortfall
from .repair import repaired
from .solver import Solver
from .told import Smaller, details, summary


@dataclass(frozen=True)
class Decided:
    """What stays for one target; effects: of each unit that loses something, tried alone on held-out samples."""

    kept: Kept
    effects: dict[str, Effect]


class Phases:
    """One run of the pass over one model."""

    def __init__(self, options: GatesOptions, model: Model, context: PassContext) -> None:
        self.options, self.model, self.context = options, model, context
        self.notes: list[str] = []
        labelled = options.teacher_weight < 1
        self.stages = Stages(options.name, context.data.train, context, model.static_batch, labelled)
        self._say("finding what can be removed")
        rules = Rules(frozenset(options.kinds), options.only, options.keep)
        self.dissected = dissect(model, options.name, rules)
        self.anatomy = self.dissected.anatomy
        self.units = self.anatomy.units

    def plan(self) -> PassPlan:
        """All phases, for one target after the other; the last one's network is handed on."""
        if not self.units:
            reasons = dict.fromkeys(f"{each.name}: {each.reason}" for each in self.anatomy.whole)
            return PassPlan({}, {}, modified=False, notes=("nothing can be removed", *reasons))
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
        structures = nested(
            self.anatomy,
            self.importance,
            self.cost,
            self.cost.pieces(),
            options.elastic,
            options.round_to,
            options.least,
        )
        together = Nested(self.network, self.dissected, structures)
        objective = Elastic(Tapped(together, []), self.likeness)
        training = options.training.model_copy(update={"keep": "last"})
        smallest = objective.outputs_at(len(structures) - 1)
        self.notes += self.stages.train("elastic, smallest size", objective, training, smallest, "elastic")
        return [
            self._judged(Smaller(share, kept, {}, self.dissected.removal(kept), together.extracted(size)))
            for size, (share, kept) in enumerate(zip(options.elastic, structures, strict=True))
        ]

    # -- one target

    def _smaller(self, share: float, before: float) -> Smaller:
        """The network of one target: decided, cut, repaired, trained and judged."""
        decided = self._decided(share, before)
        if note := shortfall(decided.kept, self.cost, share, self.units):
            self.notes.append(note)
        removal = self.dissected.removal(decided.kept)
        network = self._cut(removal, share)
        self._fine_tune(network, share)
        return self._judged(Smaller(share, decided.kept, decided.effects, removal, network))

    def _cut(self, removal: Removal, share: float) -> nn.Module:
        """What is left after a removal, refitted: of the weights that trained with the gates, or of those before.

        Gates choose well and train little: what their training costs the weights, a refitting may not give back.
        """
        self._say(f"{share:g}: refitting what is left")
        found = []
        for which, whole in self._cut_from.items():
            network = removed(whole, removal)
            notes = repaired(self.model, network, removal, self.lessons, self.options.compensation)
            found.append((self.lessons.unlike(network), which, network, notes))
        _, which, network, notes = min(found, key=lambda each: each[0])
        self.notes += notes
        if len(found) > 1:
            told = ", ".join(f"{unlike:.4g} {name}" for unlike, name, *_ in found)
            self.notes.append(f"{share:g}: unlikeness on held-out samples {told}: cut {which}")
        return network

    @property
    def _cut_from(self) -> dict[str, nn.Module]:
        """The networks that may be cut, by where their weights are from."""
        before = {"out of the weights before": self.model.module}
        return (
            before
            if self.options.method == "solver"
            else {"out of the trained weights": self.network} | before
        )

    def _decided(self, share: float, before: float) -> Decided:
        """What stays, by gates or by the solver, and after it was tried out."""
        if self.options.method == "solver":
            kept, scores = self._solved(share), self.importance
        else:
            scores = self._trained_gates(share, before)
            kept = self._projected(scores, share)
        self._say(f"{share:g}: trying out what is to go")
        self._settle(kept)
        effects = leave_one_out(self._loss, kept, self.units)
        found = exchange(
            self._loss,
            kept,
            effects,
            scores,
            self.cost,
            share,
            self.units,
            self.options.round_to,
            self.options.least,
        )
        if len(found.losses) > 1:
            exchanges = len(found.losses) - 1
            self.notes.append(
                f"{share:g}: {exchanges} exchanges between layers; unlikeness on held-out samples"
                f" {found.losses[0]:.4g} -> {found.losses[-1]:.4g}"
            )
            effects = leave_one_out(self._loss, found.kept, self.units)
        return Decided(found.kept, effects)

    def _settle(self, kept: Kept) -> None:
        """Give the BatchNorms of the network the statistics that they have without what goes, where that helps."""
        self.network.eval()
        gated = fixed(self.network, self.dissected, gates_of(kept, self.units))
        if norms_of(gated) and self.model.static_batch is None:
            keep_where_no_worse(gated, lambda: reestimate(gated, self.lessons.fit), self.lessons.unlike)

    def _trained_gates(self, share: float, before: float) -> dict[str, Tensor]:
        """How far above its threshold each gate is, after they were trained towards the target."""
        options = self.options
        objective = Gating(
            network=self._tapped,
            likeness=self.likeness,
            cost=self.cost,
            ramp=Ramp(before, share) if before == 1 else Ramp(before, share, warm_up=0.0),
            gate_lr=options.gate_lr / options.training.lr,
        )
        training = options.training.model_copy(update={"epochs": options.gate_epochs, "keep": "last"})
        self.notes += self.stages.train(
            "gates", objective, training, judged=objective.outputs, kept_as=f"gates-{share:g}"
        )
        return objective.scores()

    def _projected(self, scores: dict[str, Tensor], share: float) -> Kept:
        options = self.options
        return project(scores, self.cost, share, self.units, options.round_to, options.least, per_cost=False)

    def _solved(self, share: float) -> Kept:
        options = self.options
        solver = Solver(
            self.anatomy, self.importance, self.cost, self.cost.pieces(), options.round_to, options.least
        )
        return solver.solve(share).kept

    def _fine_tune(self, network: nn.Module, share: float) -> None:
        objective = FineTuning(Tapped(network, []), self.likeness)
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
        sizes = {layer.name: (layer.inputs.size, layer.outputs.size) for layer in self.anatomy.layers}
        if self.options.table is not None:
            table = LatencyTable.read(self.options.table)
            table.require_layers(sizes, str(self.options.table))
        elif self.context.latency_table is not None:
            table = self.context.latency_table(self.model)
        else:
            raise CompressError(
                f"{self.options.name}: cost: latency needs a device's table: name one with `table`, which"
                " `compress tabulate` writes, or run a recipe whose first target can be measured"
            )
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
    def importance(self) -> dict[str, Tensor]:
        """What each choice is worth before any training, as half a divergence in nats."""
        self._say("reading what each channel is worth")
        return taylor(self.lessons.importance_losses(self.dissected), self.units)

    @cached_property
    def network(self) -> nn.Module:
        """A copy of the network that gates are trained in, whole in its widths."""
        return copy.deepcopy(self.model.module)

    @cached_property
    def _tapped(self) -> Tapped:
        """The network with gates, all open, those worth least for their cost next to their threshold."""
        ranks = standing(worth(self.importance, self.cost, self.units), self.units)
        gates = {unit.name: Gate(unit.size, self.options.gradient) for unit in self.units}
        for name, gate in gates.items():
            gate.start(ranks[name])
        return Tapped(Gated(self.network, self.dissected, gates), [])

    def _loss(self, gates: Gates) -> float:
        """How unlike the whole network the trained one is with these gates."""
        self.network.eval()
        return self.lessons.unlike(fixed(self.network, self.dissected, gates))

    def _say(self, what: str) -> None:
        self.context.progress.say(f"  {self.options.name}: {what}")
