"""The options of `tokens`, as recipes write them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from ..base import Pass
from .schedule import MergeName


class TokensOptions(Pass):
    """How many multiply-accumulates are left, how tokens that go are chosen, and what becomes of them."""

    cost: Literal["macs"] = Field("macs", description="What the target is of: multiply-accumulates.")
    target: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Share of the cost that is left. Without it only what nothing reads is dropped: behind the last"
        " attention all tokens but those that an output depends on.",
    )
    schedule: Path | None = Field(
        None,
        description="In place of a target, the tokens.json of an earlier run, also of another input size: its shares of"
        " the tokens are kept.",
    )
    method: Literal["greedy", "uniform"] = Field(
        "greedy",
        description="greedy: step by step the tokens go that harm the outputs least for what they save; kept only where"
        " it does no worse than uniform on other samples. uniform: the same share at each site.",
    )
    merge: MergeName | None = Field(
        None,
        description="What becomes of merged tokens: mean (DiffRate) or weighted (ToMe, by the patches that each stands"
        " for) with the most similar token that stays; soft: shared out over all that stay. Default: that of the"
        " schedule, or mean.",
    )
    start: int = Field(1, ge=0, description="The first block that may lose tokens, counted from 0.")

    @model_validator(mode="after")
    def _one_schedule(self) -> Self:
        if self.target is not None and self.schedule is not None:
            raise ValueError("expected target or schedule, not both")
        defaults = {"method": "greedy", "start": 1}
        unused = [name for name, usual in defaults.items() if getattr(self, name) != usual]
        if self.target is None and unused:
            raise ValueError(
                f"{' and '.join(unused)}: say how a target is met: give a target, or leave it out"
            )
        if self.target is None and self.schedule is None and self.merge is not None:
            raise ValueError(
                "merge: nothing is merged without a target or a schedule: give one, or leave it out"
            )
        return self
