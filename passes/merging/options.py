"""The options of `tokens`, as recipes write them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from ..base import Pass
from ..training.options import TrainingOptions
from .schedule import MatchingName, MergeName

HOW_MUCH = ("target", "target_ms", "max_drop", "schedule")
"""Options that each say how many tokens are left."""
HOW = ("cost", "method", "start")
"""Options of a search, which no schedule that is given has use for."""


class TrainingOfCounts(TrainingOptions):
    """How a pass trains, with the rate that counts take, which are far fewer than weights."""

    epochs: int = Field(3, ge=0, le=10_000, description="Passes over the samples that are learned from.")
    batch: int = Field(16, ge=1, le=65_536, description="Samples in one step, over all processes.")
    lr: float = Field(0.02, gt=0, le=10, description="Largest learning rate, of logits of counts.")
    keep: Literal["best", "last"] = Field(
        "last",
        description="Which epoch's counts are kept: the last, or the best by the metric, which sees less.",
    )


class TokensOptions(Pass):
    """What of the cost is left, how tokens that go are chosen, and what becomes of them."""

    cost: Literal["macs", "latency"] = Field(
        "macs",
        description="What is to become less: multiply-accumulates, or the milliseconds of one inference on the first of"
        " the recipe's targets that can be measured on, where each block that tokens go from takes time of its own.",
    )
    target: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Share of the cost that is left. Without it, and without target_ms, max_drop and schedule, only"
        " what nothing reads is dropped: behind the last attention all tokens but those that an output depends on.",
    )
    target_ms: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="In place of a share, the milliseconds that one inference may take, with cost: latency.",
    )
    max_drop: float | None = Field(
        None,
        ge=0,
        lt=100,
        description="In place of a share, how many points of the metric may be lost on the validation part, a standard"
        " error of the loss counted with it: as many tokens go as that leaves room for.",
    )
    schedule: Path | None = Field(
        None,
        description="In place of a share, the tokens.json of an earlier run, also of another input size: its shares of"
        " the tokens are kept.",
    )
    method: Literal["greedy", "learned", "uniform"] = Field(
        "greedy",
        description="greedy: step by step the tokens go that harm the outputs least for what they save. learned: the"
        " counts are learned by gradients, the weights stay (DiffRate). uniform: the same share at each site. The first"
        " two are kept only where they do no worse than uniform on other samples.",
    )
    merge: MergeName | None = Field(
        None,
        description="What becomes of merged tokens: mean (DiffRate) or weighted (ToMe, by the patches that each stands"
        " for) with the most similar token they may join; soft: shared out over all these. Default: that of the"
        " schedule, or weighted where matching is bipartite, else mean.",
    )
    matching: MatchingName | None = Field(
        None,
        description="Which tokens are merged, of those that are not dropped. bipartite: of every second token those"
        " that are most like one of the tokens between, into these (ToMe): at most every second one in a block."
        " importance: the least important, into any that stay (DiffRate); learned counts need it. Default:"
        " that of the schedule, or importance where counts are learned, else bipartite.",
    )
    start: int | None = Field(
        None,
        ge=0,
        description="The first block that may lose tokens, counted from 0. Default: 0, or 1 where the least important"
        " are merged.",
    )
    pictures: int = Field(
        4,
        ge=0,
        le=32,
        description="How many images of the validation part run.json and the report hold, with what became of their"
        " patches.",
    )
    training: TrainingOfCounts = Field(
        TrainingOfCounts(),
        description="How the counts are learned, with method: learned; no weight of the network trains.",
    )

    @property
    def searches(self) -> bool:
        """Whether a schedule is to be found."""
        return not (self.target is None and self.target_ms is None and self.max_drop is None)

    @property
    def matching_here(self) -> MatchingName:
        """By which rule it is chosen who is merged, where no schedule says it."""
        return self.matching or ("importance" if self.method == "learned" else "bipartite")

    @property
    def merge_here(self) -> MergeName:
        """By which rule they are merged, where no schedule says it."""
        return self.merge or ("weighted" if self.matching_here == "bipartite" else "mean")

    @property
    def first(self) -> int:
        """The first block that may lose tokens. Block 0 knows little of what is important."""
        return self.start if self.start is not None else int(self.matching_here == "importance")

    @model_validator(mode="after")
    def _one_amount(self) -> Self:
        given = [name for name in HOW_MUCH if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"expected one of {', '.join(HOW_MUCH)}, got {' and '.join(given)}")
        if self.target_ms is not None and self.cost != "latency":
            raise ValueError(
                f"target_ms: is for cost: latency, and the cost is {self.cost}; write cost: latency"
            )
        fields = type(self).model_fields
        unused = [name for name in HOW if getattr(self, name) != fields[name].default]
        if self.schedule is not None and unused:
            raise ValueError(
                f"{' and '.join(unused)}: say how a target is met, and schedule is given; leave it out"
            )
        if not self.searches and unused:
            raise ValueError(
                f"{' and '.join(unused)}: say how a target is met: give a target, or leave it out"
            )
        rules = [name for name in ("merge", "matching") if getattr(self, name) is not None]
        if not given and rules:
            raise ValueError(
                f"{' and '.join(rules)}: nothing is merged without a target or a schedule: give one, or leave it out"
            )
        if self.method == "learned" and self.matching == "bipartite":
            raise ValueError(
                "matching: counts are learned by ranks of importance; take matching: importance, or method: greedy"
            )
        if self.method == "learned" and self.max_drop is not None:
            raise ValueError(
                "max_drop: learned counts are those of one target; give a target, or take method: greedy"
            )
        if self.method == "learned" and not self.training.epochs:
            raise ValueError("training.epochs: 0 learns nothing; give 1 or more, or take method: uniform")
        if self.method != "learned" and self.training != fields["training"].default:
            raise ValueError(
                f"training: is for method: learned, and the method is {self.method}; leave it out"
            )
        return self
