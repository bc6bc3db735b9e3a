"""Schedules: what they may be, and how they are found."""

from __future__ import annotations

import json
import math
import random
from itertools import pairwise, product
from pathlib import Path

import pytest
from edgepress.errors import CompressError
from edgepress.passes.merging.cost import BlockWidths, Macs
from edgepress.passes.merging.greedy import fewer, greedy
from edgepress.passes.merging.probing import drawn_schedules
from edgepress.passes.merging.schedule import Kept, Schedule
from edgepress.passes.merging.sites import sites_of, without_site
from edgepress.passes.merging.uniform import keeping, uniform

BLOCK = BlockWidths(width=8, attended=8, looking=64, looked_at=128, mixing=64, mlp=256)


def cost_of(blocks: int, read: int | None = 1) -> Macs:
    plain = Macs((BLOCK,) * blocks, 1, 100, 0, None)
    whole = plain.of(Schedule.whole(32, blocks))
    return Macs((BLOCK,) * blocks, 1, 100, whole, read)


def falls(schedule: Schedule) -> bool:
    counts = [schedule.patches, *(count for kept in schedule.blocks for count in (kept.pruned, kept.merged))]
    return all(after <= before for before, after in pairwise(counts))


def test_counts_never_increase_whatever_is_asked_for() -> None:
    draw = random.Random(0)
    for _ in range(200):
        pruned, merged = ([draw.randint(0, 40) for _ in range(5)] for _ in range(2))
        schedule = Schedule.of(32, pruned, merged)
        assert falls(schedule) and schedule.patches == 32
        scaled = schedule.scaled(draw.randint(1, 100))
        assert falls(scaled)
        assert [kept.merged > 0 for kept in scaled.blocks] == [kept.merged > 0 for kept in schedule.blocks]


def test_the_same_size_is_the_same_schedule() -> None:
    schedule = Schedule.of(32, [32, 20, 9], [30, 11, 9])
    assert schedule.scaled(32) == schedule and schedule.scaled(64).entering() == [64, 60, 22]
    assert schedule.sites == 3 and Schedule.whole(32, 3).sites == 0


def bipartite(schedule: Schedule) -> Schedule:
    return schedule.model_copy(update={"matching": "bipartite"})


def test_bipartite_matching_merges_at_most_every_second_token() -> None:
    draw = random.Random(0)
    for _ in range(200):
        pruned, merged = ([draw.randint(0, 40) for _ in range(5)] for _ in range(2))
        schedule = Schedule.of(32, pruned, merged, matching="bipartite")
        assert falls(schedule) and Schedule.model_validate_json(schedule.model_dump_json()) == schedule
        assert all(kept.pruned - kept.merged <= kept.pruned // 2 for kept in schedule.blocks)
        for block in range(5):
            for merging, step in product((False, True), (1, 7)):
                after = fewer(schedule, block, merging, step)
                if after is not None:
                    Schedule.model_validate_json(after.model_dump_json())
                    assert 1 <= schedule.blocks[block].merged - after.blocks[block].merged <= step
    assert fewer(Schedule.of(32, [32], [16], matching="bipartite"), 0, True, 1) is None
    assert fewer(Schedule.of(32, [32], [16], matching="bipartite"), 0, False, 1) is None
    with pytest.raises(
        ValueError, match=r"blocks\[0\]: merges 17 of 32 tokens, and bipartite matching merges at"
    ):
        Schedule(patches=32, blocks=(Kept(pruned=32, merged=15),), matching="bipartite")


def only_merges(schedule: Schedule) -> bool:
    return [kept.pruned for kept in schedule.blocks] == schedule.entering()


def test_a_site_left_out_leaves_what_the_next_can_merge() -> None:
    schedule = Schedule.of(32, [32, 16, 8, 8], [16, 8, 8, 4], matching="bipartite")
    without = without_site(schedule, 0, prunes=False)
    assert [kept.merged for kept in without.blocks] == [32, 16, 16, 8] and only_merges(without)
    assert sites_of(without) == [1, 3]


@pytest.mark.parametrize("patches", [16, 49, 196, 256])
def test_where_nothing_may_be_dropped_nothing_is_whatever_merging_can_leave(patches: int) -> None:
    whole, sites = bipartite(Schedule.whole(patches, 12)), range(2, 9)
    draw = random.Random(0)
    found = drawn_schedules(whole, sites, prunes=False, count=30, draw=draw)
    found += [keeping(share, whole, sites, 1.0) for share in (0.9, 0.51, 0.5, 0.4, 0.1, 0.0)]
    found += [uniform(whole, sites, cost_of(12, None), share * 1e5, 1.0) for share in (0.1, 0.5, 0.9)]
    found += [each.scaled(other) for each in found for other in (9, 50, 400)]
    found += [without_site(each, site, prunes=False) for each in found for site in sites_of(each)]
    by_importance = [each.model_copy(update={"matching": "importance"}) for each in found[:40]]
    found += [bipartite(each).scaled(each.patches) for each in by_importance]
    for each in found:
        assert only_merges(each) and set(sites_of(each)) <= set(sites)
        Schedule.model_validate_json(each.model_dump_json())


def test_what_one_site_cannot_merge_is_left_and_not_dropped_at_the_next_block() -> None:
    found = keeping(0.3, bipartite(Schedule.whole(196, 4)), [0], 0.5)
    assert [(kept.pruned, kept.merged) for kept in found.blocks] == [(128, 64), *[(64, 64)] * 3]


def test_greedy_asks_a_block_again_that_was_half_empty_once_earlier_ones_leave_it_fewer() -> None:
    wide = BlockWidths(width=64, attended=64, looking=4096, looked_at=8192, mixing=4096, mlp=32768)
    cost, whole = Macs((wide,) * 4, 1, 100, 10**9, None), bipartite(Schedule.whole(192, 4))
    weights = {(block, merging): float(10 ** (4 - block)) for block in range(4) for merging in (False, True)}
    found = greedy(whole, range(4), cost, 0.0, damage(weights), prunes=False)  # as far as it goes
    further = [fewer(found, block, True, step) for block in range(4) for step in (1, 8)]
    assert not [after for after in further if after is not None and cost.of(after) < cost.of(found)]
    assert only_merges(found) and found.blocks[3].merged < 192 // 8


@pytest.mark.parametrize("joining", [0.0, 0.5, 1.0])
def test_uniform_is_the_most_that_fits_with_one_share(joining: float) -> None:
    cost, whole = cost_of(4), Schedule.whole(32, 4)
    for target in (0.75, 0.6, 0.5):
        found = uniform(whole, range(1, 3), cost, target * cost.whole, joining)
        assert cost.of(found) <= target * cost.whole
        shares = [step / 1000 for step in range(1001)]
        fits = [s for s in shares if cost.of(keeping(s, whole, range(1, 3), joining)) <= target * cost.whole]
        assert cost.of(found) == pytest.approx(
            cost.of(keeping(max(fits), whole, range(1, 3), joining)), rel=0.02
        )
        for kept, given in zip(found.blocks, found.entering(), strict=True):
            assert kept.pruned - kept.merged == math.ceil(joining * (given - kept.merged))


def test_uniform_leaves_one_token_where_nothing_fits() -> None:
    found = uniform(Schedule.whole(32, 4), range(1, 4), cost_of(4), 0.0, joining=0.5)
    assert [kept.merged for kept in found.blocks] == [32, 1, 1, 1]


def damage(weights: dict[tuple[int, bool], float]):
    """Of each token that goes at a block, dropped or merged: something that adds up and grows."""

    def harm(schedule: Schedule) -> float:
        total = 0.0
        for block, (kept, given) in enumerate(zip(schedule.blocks, schedule.entering(), strict=True)):
            total += weights[block, False] * (given - kept.pruned) ** 1.5
            total += weights[block, True] * (kept.pruned - kept.merged) ** 1.5
        return total

    return harm


@pytest.mark.parametrize("whole", [Schedule.whole(32, 5), bipartite(Schedule.whole(32, 5))])
def test_greedy_meets_its_target_and_does_less_harm_than_uniform(whole: Schedule) -> None:
    cost = cost_of(5)
    for seed in range(10):
        draw = random.Random(seed)
        harm = damage({key: draw.uniform(0.1, 3) for key in product(range(5), (False, True))})
        limit = 0.6 * cost.whole
        found = greedy(whole, range(1, 4), cost, limit, harm, prunes=True)
        assert falls(found) and 0.97 * limit <= cost.of(found) <= limit
        assert (
            found.blocks[0] == Kept(pruned=32, merged=32) and found.blocks[4].merged == found.blocks[3].merged
        )
        assert harm(found) <= harm(uniform(whole, range(1, 4), cost, limit, joining=0.5))


def test_greedy_takes_what_harms_least() -> None:
    cost, whole = cost_of(4, None), Schedule.whole(32, 4)
    weights = dict.fromkeys(product(range(4), (False, True)), 1e6) | {(2, True): 1.0}
    found = greedy(whole, range(1, 3), cost, 0.8 * cost.whole, damage(weights), prunes=True)
    assert [kept.pruned for kept in found.blocks[:3]] == [32, 32, 32] and found.blocks[2].merged < 32


def test_where_nothing_may_be_dropped_all_that_goes_is_merged() -> None:
    cost, whole = cost_of(4), Schedule.whole(32, 4)
    free = dict.fromkeys(product(range(4), (False, True)), 1.0) | {(2, False): 0.0}
    found = greedy(whole, range(1, 3), cost, 0.7 * cost.whole, damage(free), prunes=False)
    assert [kept.pruned for kept in found.blocks] == found.entering()


def test_greedy_takes_no_step_that_costs_more_than_it_saves() -> None:
    """Merging a few of 256 tokens of width 8 in the last block costs more than its MLP does of them."""
    plain = Macs((BLOCK,) * 3, 1, 100, 0, None)
    whole = Schedule.whole(256, 3)
    cost = Macs((BLOCK,) * 3, 1, 100, plain.of(whole), None)
    step = fewer(whole, 2, True, 10)
    assert step is not None and cost.of(step) > cost.of(whole)
    weights = dict.fromkeys(product(range(3), (False, True)), 1.0) | {(2, True): 1e6}
    found = greedy(whole, range(1, 3), cost, 0.9 * cost.whole, damage(weights), prunes=False)
    assert cost.of(found) <= 0.9 * cost.whole and found.blocks[2].merged == found.blocks[1].merged


def test_a_step_leaves_one_token_at_least() -> None:
    schedule = Schedule.of(32, [32, 3, 3], [32, 3, 3])
    one = fewer(schedule, 1, True, 8)
    assert (
        one is not None and [kept.merged for kept in one.blocks] == [32, 1, 1] and one.blocks[1].pruned == 3
    )
    assert fewer(one, 2, False, 8) is None


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "no schedule of tokens: "),
        ("[]", "not a schedule of tokens: it has no schema_version"),
        ('{"schema_version": 7}', "schema_version is 7, this edgepress reads 1"),
        ({"patches": 0, "blocks": []}, "patches: "),
        (
            {"patches": 4, "blocks": [{"pruned": 2, "merged": 3}]},
            "blocks.0: 3 tokens merged of 2 that pruning left",
        ),
        ({"patches": 4, "blocks": [{"pruned": 2, "merged": 0}]}, "blocks.0: merged: 0 leaves no token"),
        ({"patches": 4, "blocks": [{"pruned": 5, "merged": 1}]}, "blocks[0]: keeps 5 of 4 tokens"),
        ({"patches": 4, "blocks": [{"pruned": 2, "merged": 1, "x": 1}]}, "blocks.0.x: "),
    ],
)
def test_a_file_that_is_no_schedule_is_refused_with_the_place(
    tmp_path: Path, content: object, reason: str
) -> None:
    path = tmp_path / "tokens.json"
    path.write_text(content if isinstance(content, str) else json.dumps({"schema_version": 1, **content}))  # type: ignore[dict-item]
    with pytest.raises(CompressError) as caught:
        Schedule.read(path)
    assert str(path) in str(caught.value) and reason in str(caught.value)
    assert str(caught.value).endswith("a schedule is the tokens.json that a run of the pass `tokens` leaves")
    with pytest.raises(CompressError, match="cannot be read: No such file"):
        Schedule.read(tmp_path / "none.json")
