"""Counts learned by gradients: of all distributions those with which the outputs stay most like the whole network's.

No weight of the network trains. The budget is met at every step, and no factor weighs it against the loss: the loss's
gradient is taken along the budget, and after each step the distributions are set to the nearest ones (in
Kullback-Leibler divergence) that meet it, which multiplies the probability of each candidate by exp(-t * what a token
costs at that site * the candidate).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...model import Model
from ..teaching.likeness import Likeness, Teacher
from ..teaching.taps import Tapped, frozen
from ..teaching.task import TASK_SAMPLES, first_batch, read_task
from ..teaching.taught import Taught
from ..training.job import Group
from ..training.stage import Stages
from .cost import Cost
from .distributions import FARTHEST, least
from .greedy import fewer
from .masked import MaskedBlocks
from .options import TokensOptions
from .schedule import Schedule
from .settings import Settings, blocks_of, set_counts

FEWER = 4
"""Tokens by which it is seen what one costs."""
LEAST_SLOPE = 0.05
"""Of the largest: where a token costs next to nothing, a budget has no hold on the count."""


def learned(
    options: TokensOptions,
    model: Model,
    network: nn.Module,
    settings: Settings,
    sites: range,
    cost: Cost,
    limit: float,
    stages: Stages,
) -> Schedule:
    """The counts that are learned from those of `settings` on, at `sites`, for a cost of at most `limit`.

    network: with TokenBlocks; it is left as it is.
    """
    made = copy.deepcopy(network)
    blocks = with_masks(made, settings, sites)
    inputs, labels = first_batch(stages.context.data.calibration, TASK_SAMPLES, model.static_batch)
    task = read_task(model.run(*inputs), labels, None)
    teachers = [Teacher(frozen(model.module, []))]
    likeness = Likeness(teachers, task, temperature=1.0, teacher_weight=1.0)
    objective = Counting(Tapped(made, []), likeness, blocks, cost, limit)
    judged = options.training.keep == "best" or options.training.patience is not None
    stages.train("counts", objective, options.training, objective.outputs if judged else None)
    return blocks.schedule()


def with_masks(network: nn.Module, settings: Settings, sites: range) -> MaskedBlocks:
    """Put masked blocks, which start from the settings' schedule, in the place of a network's TokenBlocks."""
    plain = blocks_of(network, settings.encoder)
    set_counts(plain, settings)
    blocks = MaskedBlocks(plain, settings.schedule, sites)
    holder, _, name = settings.encoder.place.rpartition(".")
    setattr(network.get_submodule(holder), name, blocks)
    return blocks


@dataclass
class Counting(Taught):
    """Likeness to the whole network of one whose counts learn within a limit of the cost."""

    blocks: MaskedBlocks
    cost: Cost
    limit: float

    def groups(self) -> list[Group]:
        """The distributions alone."""
        return [Group([self.blocks.logits], decay=False)]

    def training(self, on: bool) -> None:
        """Meet the limit. The network runs as in evaluation, also while its counts learn."""
        self.network.eval()
        self._meet()

    @torch.no_grad()
    def _meet(self) -> None:
        """Tilt all distributions until the cost of the counts, rounded up, is just within the limit."""
        logits, choices = self.blocks.logits, self.blocks.get_buffer("choices")
        start, slopes = logits.clone(), self._slopes()[:, None, None].to(logits.device)
        directions = slopes * choices / choices[0]

        def above(tilt: float) -> bool:
            logits.copy_(start - tilt * directions)
            return self.cost.of(self.blocks.schedule()) > self.limit

        tilt = least(above, -FARTHEST, FARTHEST)
        logits.copy_(start - tilt * directions)
        chances = logits.softmax(-1)
        self.blocks.get_buffer("pull").copy_(slopes * chances * (choices - (chances @ choices)[..., None]))

    def _slopes(self) -> Tensor:
        """What the cost falls by with one token fewer at each site, (sites,), over the largest; at least a little."""
        schedule = self.blocks.schedule()
        falls = [self._fall(schedule, block) for block in self.blocks.sites]
        most = max(max(falls), 1e-12)
        return torch.tensor([max(fall / most, LEAST_SLOPE) for fall in falls], dtype=torch.float64)

    def _fall(self, schedule: Schedule, block: int) -> float:
        after = fewer(schedule, block, merging=True, step=FEWER)
        if after is None:
            return 0.0
        less = schedule.blocks[block].merged - after.blocks[block].merged
        return (self.cost.of(schedule) - self.cost.of(after)) / less
