"""The options of `gates`, as recipes write them."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from ..base import Pass
from ..channels.kind import Kind
from ..training.options import TrainingOptions

if TYPE_CHECKING:
    from ..channels.dissect import Rules

CostName = Literal["params", "macs", "latency"]
NOT_ELASTIC = ("targets", "method", "gradient", "gate_epochs", "gate_lr", "compensation")
"""Options that `elastic` has no use for: its structures are the solver's, and its weights are trained in place."""
NOTHING_HINT = "leave out the pass, or let more be removed (kinds, only, keep)"
"""What to do where there is nothing to remove."""
GATES_ALONE = ("gradient", "gate_epochs", "gate_lr")
"""Options of gates that train."""


class GatesOptions(Pass):
    """What is to become smaller, by how much, what may be removed for it, and how the rest is trained."""

    cost: CostName = Field(
        "macs",
        description="What the target is of: parameters, multiply-accumulates, or milliseconds by a device's table.",
    )
    target: float = Field(0.5, gt=0, lt=1, description="Share of the cost that is left.")
    targets: tuple[float, ...] = Field(
        (),
        description="Several shares, from the largest to the smallest, in place of `target`: one training leaves a"
        " network for each, and the last one is handed on.",
    )
    table: Path | None = Field(
        None,
        description="With cost: latency, the file with the latencies of layers that `compress tabulate` has measured;"
        " without it a run measures them on the first of its targets that can be measured on.",
    )
    method: Literal["gates", "solver"] = Field(
        "gates",
        description="gates: the gates train with the weights; solver: the best widths and blocks for the importance"
        " that each choice has before training, by an integer program.",
    )
    kinds: tuple[Kind, ...] = Field(
        tuple(Kind),
        description="What may be removed: channels (also hidden units of MLPs), heads, head_size (dimensions of"
        " queries, keys and values), block (residual blocks, whole).",
    )
    only: tuple[str, ...] = Field(
        (),
        description="What alone may lose something, by name or pattern of layers, blocks or what holds them: channels"
        " and heads of which a layer that makes them is named, with all that is tied to these (the layers that a"
        " residual adds up are cut together), and blocks that are; empty: all.",
    )
    keep: tuple[str, ...] = Field(
        (),
        description="What is left whole, by name or pattern of layers, blocks or what holds them (`head`,"
        " `blocks.0.*`): neither its inputs nor its outputs are cut, and no block with any of it goes.",
    )
    least: float = Field(
        0.1, ge=0, le=1, description="Share of its channels or heads that each layer keeps at least."
    )
    round_to: int = Field(
        8,
        ge=1,
        le=1024,
        description="Channels are kept in multiples of this, or of half of it and so on where they are few.",
    )
    gradient: Literal["constant", "sigmoid"] = Field(
        "constant",
        description="Shape of the gradient in a gate's parameter; by the sigmoid's, gates that have been closed for"
        " long no longer come back.",
    )
    gate_epochs: int = Field(
        10, ge=1, le=10_000, description="Epochs in which gates and weights train together, for each target."
    )
    gate_lr: float = Field(
        0.02,
        gt=0,
        le=1,
        description="Largest learning rate of the gates, which all start open between 0 and 1 and close below 0.",
    )
    compensation: bool = Field(
        True,
        description="Whether the layers behind what was removed are refitted to their former outputs, in closed form,"
        " before the fine-tuning.",
    )
    elastic: tuple[float, ...] = Field(
        (),
        description="Shares of the cost, the first one 1.0, whose networks are nested in one and trained together:"
        " any of them can be taken out without further training.",
    )
    temperature: float = Field(2.0, gt=0, le=100, description="Softens the outputs that are compared.")
    teacher_weight: float = Field(
        0.7,
        ge=0,
        le=1,
        description="Share of the loss that the outputs of the network as it was have; at 1 labels are not used, at 0"
        " the network as it was is not.",
    )
    training: TrainingOptions = Field(
        TrainingOptions(),
        description="How the smaller network is fine-tuned, and weights train beside the gates.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.table is not None and self.cost != "latency":
            raise ValueError(f"table: is for cost: latency, and the cost is {self.cost}; write cost: latency")
        if not self.kinds:
            raise ValueError(f"kinds: expected at least one of {', '.join(Kind)}")
        if len(set(self.kinds)) < len(self.kinds):
            raise ValueError(f"kinds: expected each kind once, got {', '.join(self.kinds)}")
        unused = [name for name in GATES_ALONE if name in self.model_fields_set]
        if self.method == "solver" and unused and not self.elastic:
            raise ValueError(
                f"method: solver trains no gates: leave out {', '.join(unused)}, or take method: gates"
            )
        return self

    @model_validator(mode="after")
    def _elastic_alone(self) -> Self:
        unused = [name for name in NOT_ELASTIC if self.elastic and name in self.model_fields_set]
        if unused:
            raise ValueError(
                f"elastic: nested networks are made without {', '.join(unused)}: leave out these options, or elastic"
            )
        return self

    @model_validator(mode="after")
    def _targets_fall(self) -> Self:
        if self.targets and "target" in self.model_fields_set:
            raise ValueError("expected target or targets, not both")
        for name, shares, most in (
            ("targets", self.targets, "below 1"),
            ("elastic", self.elastic, "up to 1"),
        ):
            if any(not 0 < share <= 1 or (share == 1 and name == "targets") for share in shares):
                raise ValueError(
                    f"{name}: expected shares of the cost above 0 and {most}, got {list(shares)}"
                )
            if any(float(f"{after:g}") >= float(f"{before:g}") for before, after in pairwise(shares)):
                raise ValueError(
                    f"{name}: expected each share below the one before it (six digits count), got {list(shares)}"
                )
        if self.elastic and "target" in self.model_fields_set and self.target not in self.elastic:
            raise ValueError(
                f"target: expected one of the sizes of elastic, {list(self.elastic)}, got {self.target}"
            )
        if self.elastic and (self.elastic[0] != 1 or len(self.elastic) < 2):
            raise ValueError(f"elastic: expected 1.0 and smaller shares after it, got {list(self.elastic)}")
        return self

    @property
    def rules(self) -> Rules:
        """What may be removed of a network."""
        from ..channels.dissect import Rules

        return Rules(frozenset(self.kinds), self.only, self.keep)

    @property
    def to_the_end(self) -> TrainingOptions:
        """How stages train whose last epoch counts: the best one by a metric is that with all of the network."""
        return self.training.model_copy(update={"keep": "last", "patience": None})

    @property
    def without_samples(self) -> str:
        """What to do where there is nothing to learn from: gates always learn."""
        without = "set training.epochs: 0"
        return without if self.elastic or self.method == "solver" else f"take method: solver and {without}"

    @property
    def handed_on(self) -> float:
        """The share of the network that later passes are given: the smallest, of nested ones that of `target`."""
        if self.elastic and "target" in self.model_fields_set:
            return self.target
        return (self.elastic or self.shares)[-1]

    @property
    def shares(self) -> tuple[float, ...]:
        """The targets, from the largest to the smallest."""
        return self.targets or (self.target,)
