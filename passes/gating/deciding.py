"""What stays of a network for each target: decided by trained gates or by the solver, then tried out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor, nn

from ..channels.dissected import Dissected
from ..channels.gated import Gated, fixed
from ..channels.units import Gates, Kept, Unit, gates_of
from ..teaching.taps import Tapped
from ..training.stage import Stages
from .batch_norm import norms_of, reestimate
from .check import Effect, exchange, leave_one_out
from .cost import Cost
from .gate import Gate
from .held_out import keep_where_no_worse
from .importance import standing, taylor, worth
from .lessons import TRIED, Lessons
from .objective import Gating, Ramp
from .options import GatesOptions
from .projection import project, widened
from .solver import Solver


@dataclass(frozen=True)
class Decided:
    """What stays for one target; effects: of each unit that loses something, tried alone on held-out samples."""

    kept: Kept
    effects: dict[str, Effect]


@dataclass(frozen=True)
class Deciding:
    """Says what stays of a network.

    whole: the network as it was; network: a copy of it, whole in its widths, that trains with the gates. any_batch:
    whether it takes batches of any size. layers_alone: as of `Tapped`. notes: what is to be told, added to. say:
    reports progress.
    """

    options: GatesOptions
    dissected: Dissected
    whole: nn.Module
    network: nn.Module
    any_batch: bool
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
    def importance(self) -> dict[str, Tensor]:
        """What each choice is worth before any training, as half a divergence in nats."""
        self.say("reading what each channel is worth")
        return taylor(self.lessons.importance_losses(self.dissected), self.units)

    def decided(self, share: float, before: float) -> Decided:
        """What stays of a share of the cost, by gates or by the solver, and after it was tried out.

        before: the share of the target before it, 1 for the first.
        """
        if self.options.method == "solver":
            kept, scores = self._solved(share), self.importance
        else:
            scores = self._trained_gates(share, before)
            kept = self._projected(scores, share)
        self.say(f"{share:g}: trying out what is to go")
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
            moved = [name for name, choices in found.kept.items() if kept.get(name) != choices]
            effects |= leave_one_out(self._loss, found.kept, self.units, moved)
            effects = {name: effects[name] for name in found.kept}
        return Decided(found.kept, effects)

    def _settle(self, kept: Kept) -> None:
        """Give the BatchNorms of the network the statistics that they have without what goes, where that helps."""
        self.network.eval()
        gated = fixed(self.network, self.dissected, gates_of(kept, self.units))
        if norms_of(gated) and self.any_batch and self.lessons.can_fit:
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

    def _projected(self, scores: dict[str, Tensor], share: float) -> Kept:
        options = self.options
        return project(scores, self.cost, share, self.units, options.round_to, options.least, per_cost=False)

    def _solved(self, share: float) -> Kept:
        options = self.options
        solver = Solver(
            self.dissected.anatomy,
            self.importance,
            self.cost,
            self.cost.pieces(),
            options.round_to,
            options.least,
        )
        kept = solver.solve(share).kept
        # What does no harm goes however little it saves.
        return widened(kept, self.importance, self.cost, share, self.units, options.round_to, options.least)

    @cached_property
    def _tapped(self) -> Tapped:
        """The network with gates, all open, those worth least for their cost next to their threshold."""
        ranks = standing(worth(self.importance, self.cost, self.units), self.units)
        gates = {unit.name: Gate(unit.size, self.options.gradient) for unit in self.units}
        for name, gate in gates.items():
            gate.start(ranks[name])
        return Tapped(Gated(self.network, self.dissected, gates), [], self.layers_alone)

    def _loss(self, gates: Gates) -> float:
        """How unlike the whole network the trained one is with these gates."""
        self.network.eval()
        return self.lessons.unlike(fixed(self.network, self.dissected, gates), TRIED)
