"""Blocks that are run again from where their counts differ return what they would if they were all run anew."""

from __future__ import annotations

import random
from collections import Counter

import pytest
import torch
from edgepress.passes.merging.encoder import token_network
from edgepress.passes.merging.probing import drawn_schedules
from edgepress.passes.merging.replay import MOST_BYTES, Replay
from edgepress.passes.merging.schedule import Schedule
from edgepress.passes.merging.settings import Settings, blocks_of, set_counts
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

BLOCKS, PATCHES = 5, 16


def vit() -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(16, 4, embed_dim=16, depth=BLOCKS, num_heads=2, num_classes=3).eval()


class Runs:
    """The blocks of a network, how often each ran, and batches that were put into the first."""

    def __init__(self, restores: bool = False) -> None:
        torch.manual_seed(1)
        model = vit()
        self.encoder, network = token_network(model, (torch.randn(2, 3, 16, 16),))
        self.read = None if restores else 1
        self.blocks = blocks_of(network, self.encoder)
        self.set(Schedule.whole(PATCHES, BLOCKS))
        self.given = [self.blocks.entered(torch.randn(n, 1 + PATCHES, 16)) for n in (3, 2)]
        self.ran: Counter[int] = Counter()
        for index, block in enumerate(self.blocks.each):
            block.register_forward_hook(lambda *_, index=index: self.ran.update([index]))

    def set(self, schedule: Schedule) -> None:
        set_counts(self.blocks, Settings(self.encoder, schedule, self.read or 0, self.read))

    def anew(self, schedule: Schedule) -> list[Tensor]:
        self.set(schedule)
        with torch.no_grad():
            return [self.blocks(batch.features) for batch in self.given]

    def again(self, replay: Replay, schedule: Schedule) -> list[Tensor]:
        self.set(schedule)
        self.ran.clear()
        return replay.returned(self.blocks)


@pytest.mark.parametrize("most_bytes", [MOST_BYTES, 20_000, 0])
@pytest.mark.parametrize("restores", [False, True], ids=["a token is read", "patches are read"])
def test_what_is_returned_is_what_all_blocks_make(restores: bool, most_bytes: int) -> None:
    runs = Runs(restores)
    replay = Replay(runs.given, most_bytes)
    whole = Schedule.whole(PATCHES, BLOCKS)
    schedules = [
        each
        for matching in ("importance", "bipartite")
        for each in drawn_schedules(
            whole.model_copy(update={"matching": matching}),
            range(1, BLOCKS),
            not restores,
            8,
            random.Random(0),
        )
    ]
    for schedule in [*schedules, *reversed(schedules)]:
        for found, wanted in zip(runs.again(replay, schedule), runs.anew(schedule), strict=True):
            assert torch.equal(found, wanted)


def test_only_blocks_behind_the_change_run() -> None:
    runs = Runs()
    replay = Replay(runs.given, MOST_BYTES)
    runs.again(replay, Schedule.whole(PATCHES, BLOCKS))
    assert dict(runs.ran) == dict.fromkeys(range(BLOCKS), 2)  # two batches
    runs.again(replay, Schedule.of(PATCHES, [16, 16, 16, 12, 12], [16, 16, 16, 9, 9]))
    assert dict(runs.ran) == {3: 2, 4: 2}
    runs.again(replay, Schedule.of(PATCHES, [16, 16, 16, 12, 12], [16, 16, 16, 9, 9]))
    assert not runs.ran


def test_what_was_used_longest_ago_is_forgotten_first() -> None:
    runs = Runs()
    of_one_block = 5 * (1 + PATCHES) * 16 * 4
    replay = Replay(runs.given, most_bytes=BLOCKS * of_one_block)
    whole = Schedule.whole(PATCHES, BLOCKS)
    runs.again(replay, whole)
    for left in range(
        PATCHES - 1, 8, -1
    ):  # each takes the place of another like it, and not of what both begin with
        counts = [PATCHES] * 3 + [left] * 2
        runs.again(replay, Schedule.of(PATCHES, counts, counts))
        assert set(runs.ran) == {3, 4}
    runs.again(replay, Schedule.of(PATCHES, [PATCHES, *[9] * 4], [PATCHES, *[9] * 4]))
    assert set(runs.ran) == {1, 2, 3, 4}


def test_what_a_run_begins_with_is_not_forgotten_for_what_it_ends_with() -> None:
    runs = Runs()
    replay = Replay(runs.given, most_bytes=2 * 5 * (1 + PATCHES) * 16 * 4)  # of two blocks of five
    runs.again(replay, Schedule.whole(PATCHES, BLOCKS))
    runs.again(replay, Schedule.of(PATCHES, [16, 16, 9, 9, 9], [16, 16, 9, 9, 9]))
    assert set(runs.ran) == {2, 3, 4}
