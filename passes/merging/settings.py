"""What makes a network with fewer tokens of one with all: the schedule, the rule, who looks and what is read."""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from .blocks import TokenBlocks
from .encoder import Encoder
from .schedule import Schedule


@dataclass(frozen=True)
class Settings:
    """All that was decided.

    looks: how many of the first tokens importance is attention of, 0 for all. read: how many of the first tokens are
    read behind the last block, where no others are; None: patches are read there, so that all come back.
    """

    encoder: Encoder
    schedule: Schedule
    looks: int
    read: int | None

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self) | {"schedule": self.schedule.model_dump(mode="json")}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Settings:
        """What `to_json` was made of."""
        return cls(
            **values
            | {
                "encoder": Encoder(**values["encoder"]),
                "schedule": Schedule.model_validate(values["schedule"]),
            }
        )


def set_up(network: nn.Module, settings: Settings) -> nn.Module:
    """A copy of a network with TokenBlocks that keeps as many tokens as the settings say."""
    made = copy.deepcopy(network)
    blocks = blocks_of(made, settings.encoder)
    set_counts(blocks, settings)
    last = blocks.each[-1]
    if settings.read is not None:
        last.read = settings.read
        last.attn.separate_queries()
    return made


def set_counts(blocks: TokenBlocks, settings: Settings) -> None:
    """Let these blocks keep as many tokens as the settings say, in place; all of them go on behind the last one."""
    schedule, blocks.restores = settings.schedule, settings.read is None
    for block, kept, given in zip(blocks.each, schedule.blocks, schedule.entering(), strict=True):
        block.kept = kept if kept.merged < given else None
        block.merge, block.matching, block.looks = schedule.merge, schedule.matching, settings.looks
        assert not (blocks.restores and kept.pruned < given), "a patch that is read was dropped"
    if settings.read is not None:
        blocks.each[-1].kept = None


def blocks_of(network: nn.Module, encoder: Encoder) -> TokenBlocks:
    """The TokenBlocks of a network that has them."""
    blocks = network.get_submodule(encoder.place)
    assert isinstance(blocks, TokenBlocks)
    return blocks
