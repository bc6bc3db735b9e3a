"""What stays of a network for each target: decided by trained gates or by the solver, then tried out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor, nn

from ..channels.dissected import Dissected
from ..channels.gated import Gated, fixed
from ..channels.units import Gates, Kept, Unit, gates_of
from ..teaching.taps import Tapped
from ..training.stage import Stages
from .batch_norm import norms_of, reestimate
from .check import exchange, leave_one_out
from .cost import Cost
from .cuts import Cuts
from .decided import Decided, remembered
from .gate import Gate
from .held_out import keep_where_no_worse, least
from .importance import standing, taylor, worth
from .lessons import Lessons
from .objective import Gating, Ramp
from .options import GatesOptions
from .projection import project
from .race import contenders
from .repair import why_left


@dataclass(frozen=True)
class Deciding:
    """Says what stays of a network.

    whole: the network as it was; network: a copy of it, whole in its widths, that trains with the gates.
    layers_alone: as of `Tapped`. notes: what is to be told, added to. say: reports progress.
    """

    options: GatesOptions
    dissected: Dissected
    whole: nn.Module
    network: nn.Module
    layers_alone: bool
    cost: Cost
    lessons: Lessons
    stages: Stages
    notes: list[str]
    say: Callable[[str], None]

    @property
    def units(self) -> tuple[Unit, ...]:
        """What may lose something."""
        return self.dissected.anatomy.units

    @cached_property
    def cuts(self) -> Cuts:
        """What is left of the network by one structure or another, before it trains."""
        return Cuts(self.options, self.dissected, self.whole, self.network, self.lessons)

    @cached_property
    def importance(self) -> dict[str, Tensor]:
        """What each choice is worth before any training, as half a divergence in nats."""
        self.say("reading what each channel is worth")
        return taylor(self.lessons.importance_losses(self.dissected), self.units)

    def decided(self, share: float, before: float) -> Decided:
        """What stays of a share of the cost, by gates or by the solver, and after it was tried out.

        before: the share of the target before it, 1 for the first.
        """
        # Also of a run that was killed: the weights are those of this training.
        gates = None if self.options.method == "solver" else self._trained_gates(share, before)
        self.cuts.forget()  # what was cut out of other weights
        first = self._remembered(f"structure-{share:g}", lambda: self._first(share, gates))
        self.say(f"{share:g}: trying out what is to go")
        self._settle(first.kept)
        found = self._remembered(f"tried-{share:g}", lambda: self._tried_out(first.kept, share, gates))
        self.notes.extend((*first.notes, *found.notes))
        return found

    def _remembered(self, name: str, decide: Callable[[], Decided]) -> Decided:
        [found] = remembered(self.stages.context.scratch, name, lambda: [decide()])
        return found

    def _first(self, share: float, gates: Mapping[str, Tensor] | None) -> Decided:
        """What stays by the gates, or without them by the solver."""
        if gates is None:
            return self._solved(share)
        options = self.options
        kept = project(gates, self.cost, share, self.units, options.round_to, options.least, per_cost=False)
        return Decided(kept)

    def _tried_out(self, kept: Kept, share: float, gates: Mapping[str, Tensor] | None) -> Decided:
        """What stays after exchanges between layers, and what each unit does.

        Of many exchanges some help the samples that they are tried on by chance, or do what a refitting does as well:
        refitted networks must agree, on others, and where there are none nothing is exchanged.
        """
        effects = leave_one_out(self._loss_before, self._loss, kept, self.units)
        if not self.lessons.others:
            note = f"{share:g}: no exchanges between layers: the validation part has too few samples to confirm them"
            return Decided(kept, effects, (note,))
        found = exchange(
            self._loss,
            kept,
            effects,
            self.importance if gates is None else gates,
            self.cost,
            share,
            self.units,
            self.options.round_to,
            self.options.least,
        )
        if len(found.losses) == 1:
            return Decided(kept, effects)
        self.say(f"{share:g}: seeing whether exchanges help other samples")
        before, after = (
            self.lessons.unlike_on_others(self.cuts.of(each).network) for each in (kept, found.kept)
        )
        note = (
            f"{share:g}: {len(found.losses) - 1} exchanges between layers; unlikeness on held-out samples"
            f" {found.losses[0]:.4g} -> {found.losses[-1]:.4g}; {self.cuts.how} and on others"
            f" {before:.4g} -> {after:.4g}"
        )
        if not after < before:
            return Decided(kept, effects, (f"{note}: taken back",))
        moved = [name for name, choices in found.kept.items() if kept.get(name) != choices]
        effects |= leave_one_out(self._loss_before, self._loss, found.kept, self.units, moved)
        return Decided(found.kept, {name: effects[name] for name in found.kept}, (note,))

    def _settle(self, kept: Kept) -> None:
        """Give the BatchNorms of the network the statistics that they have without what goes, where that helps."""
        self.network.eval()
        gated = fixed(self.network, self.dissected, gates_of(kept, self.units))
        if norms_of(gated) and not why_left(self.lessons.model, self.lessons):
            keep_where_no_worse(gated, lambda: reestimate(gated, self.lessons.fit), self.lessons.unlike)

    def _trained_gates(self, share: float, before: float) -> dict[str, Tensor]:
        """How far above its threshold each gate is, after they were trained towards the target."""
        options = self.options
        objective = Gating(
            network=self._tapped,
            likeness=self.lessons.likeness(),
            cost=self.cost,
            ramp=Ramp(before, share) if before == 1 else Ramp(before, share, warm_up=0.0),
            gate_lr=options.gate_lr / options.training.lr,
        )
        training = options.to_the_end.model_copy(update={"epochs": options.gate_epochs})
        self.notes.extend(
            self.stages.train("gates", objective, training, objective.outputs, kept_as=f"gates-{share:g}")
        )
        return objective.scores()

    def _solved(self, share: float) -> Decided:
        """The structure whose refitted network is most like the whole one."""
        options = self.options
        found = contenders(
            self.dissected.anatomy, self.importance, self.cost, share, options.round_to, options.least
        )
        notes = [f"{share:g}: {each.name}: {each.note}" for each in found if each.note]
        if len(found) == 1:
            return Decided(found[0].kept, notes=tuple(notes))
        self.say(f"{share:g}: refitting {len(found)} structures to compare them")
        losses = list[float]()
        for each in found:
            losses.append(self.cuts.of(each.kept).unlike)
            best = found[least(losses)]
            self.cuts.forget(but=best.kept)
        told = ", ".join(f"{loss:.4g} {each.name}" for loss, each in zip(losses, found, strict=True))
        note = (
            f"{share:g}: unlikeness of structures, {self.cuts.how}, on held-out samples {told}: {best.name}"
        )
        return Decided(best.kept, notes=(*notes, note))

    @cached_property
    def _tapped(self) -> Tapped:
        """The network with gates, all open, those worth least for their cost next to their threshold."""
        ranks = standing(worth(self.importance, self.cost, self.units), self.units)
        gates = {unit.name: Gate(unit.size, self.options.gradient) for unit in self.units}
        for name, gate in gates.items():
            gate.start(ranks[name])
        return Tapped(Gated(self.network, self.dissected, gates), [], self.layers_alone)

    def _loss_before(self, gates: Gates) -> float:
        """How unlike itself the network as it was is with these gates."""
        return self.lessons.unlike_where_tried(fixed(self.whole, self.dissected, gates))

    def _loss(self, gates: Gates) -> float:
        """How unlike the whole network the trained one is with these gates."""
        self.network.eval()
        return self.lessons.unlike_where_tried(fixed(self.network, self.dissected, gates))
