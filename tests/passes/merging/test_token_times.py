"""Milliseconds over schedules: what is fitted, what one more site costs, and where fewer of them are better."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from edgepress.calibration.metric import TopK
from edgepress.calibration.times import Times
from edgepress.errors import CompressError
from edgepress.examples import digits as digits_example
from edgepress.examples.digits.models import vit
from edgepress.model import Model
from edgepress.passes.merging.cost import BlockWidths, Macs
from edgepress.passes.merging.drop import MetricDrop, most_within
from edgepress.passes.merging.greedy import greedy
from edgepress.passes.merging.milliseconds import Milliseconds, Probe, features, fitted
from edgepress.passes.merging.probing import drawn_schedules
from edgepress.passes.merging.schedule import Kept, Schedule
from edgepress.passes.merging.sites import paying, sites_of, spread, with_fewer_sites, without_site
from edgepress.passes.tokens import Tokens
from safetensors.torch import load_file
from slim_job import context_in

BLOCK = BlockWidths(width=8, attended=8, looking=64, looked_at=128, mixing=64, mlp=256)
WHOLE = Schedule.whole(32, 5)


def macs(read: int | None = 1) -> Macs:
    whole = Macs((BLOCK,) * 5, 1, 100, 0, None).of(WHOLE)
    return Macs((BLOCK,) * 5, 1, 100, whole, read)


RATES = (0.2, 1e3, 2e3, 5e2, 3e3, 0.02, 0.03, 10.0, 5.0)


def timed(schedules: Sequence[Schedule], noise: float = 0.0, rates: Sequence[float] = RATES) -> list[Probe]:
    draw = random.Random(0)
    found = []
    for schedule in schedules:
        ms = float(features(macs(), schedule) @ np.array(rates)) * (1 + draw.gauss(0, noise))
        found.append(Probe(schedule, Times((ms / 4,) * 3, (4.0, 4.0), ms)))
    return found


def test_features_count_what_a_schedule_makes_a_device_do() -> None:
    schedule = Schedule.of(32, [32, 20, 16, 16, 16], [32, 20, 10, 10, 10])
    found = features(macs(), schedule)
    each = macs().work(schedule)
    assert found[1] * 1e9 == pytest.approx(sum(work.layers for work in each))
    assert found[4] * 1e9 == pytest.approx((33 + 21) * 8 + (16 - 10) * 10 * 17)
    assert found[0] == 1 and found[5] == 2 and found[6] == 1
    assert found[7] * 1e6 == pytest.approx(33 + 21)  # blocks 1 and 2 are sites, looked at from one token
    assert found[8] * 1e6 == pytest.approx(
        11**2 + 11 * 1
    )  # behind the merge, the last one read by one token alone
    assert features(macs(), WHOLE)[5:].tolist() == [0, 0, 0, 0]


def test_a_fit_finds_the_rates_and_its_own_error() -> None:
    schedules = drawn_schedules(WHOLE, range(1, 4), True, 30, random.Random(1))
    others = drawn_schedules(WHOLE, range(1, 4), True, 10, random.Random(2))
    exact = fitted(macs(), timed(schedules))
    assert exact.error is not None and exact.error < 1e-6 and exact.whole == 4.0
    for probe in timed(others):
        assert exact.of(probe.schedule) == pytest.approx(probe.times.ms, rel=1e-5)
    noisy = fitted(macs(), timed(schedules, 0.05))
    assert noisy.error is not None and 0.01 < noisy.error < 0.1
    assert min(noisy.rates) >= 0 and fitted(macs(), timed(schedules[:4])).error is None


def test_schedules_that_are_drawn_differ_in_sites_and_in_how_much_is_merged() -> None:
    schedules = drawn_schedules(WHOLE, range(1, 4), True, 20, random.Random(0))
    assert schedules[0] == WHOLE and len(schedules) == 21
    assert {each.sites for each in schedules[1:]} == {1, 2, 3}
    assert any(kept.pruned == kept.merged < 32 for each in schedules for kept in each.blocks)
    for each in drawn_schedules(WHOLE, range(1, 4), False, 20, random.Random(0)):
        assert [kept.pruned for kept in each.blocks] == each.entering()


def test_without_a_site_what_went_there_goes_at_the_next_or_stays() -> None:
    schedule = Schedule.of(32, [32, 24, 20, 10, 10], [32, 20, 20, 8, 8])
    assert sites_of(schedule) == [1, 3]
    first = without_site(schedule, 1, True)
    assert [kept.merged for kept in first.blocks] == [32, 32, 32, 8, 8] and first.blocks[3].pruned == 10
    assert [kept.merged for kept in without_site(schedule, 3, True).blocks] == [32, 20, 20, 20, 20]
    assert [list(each) for each in spread(range(1, 4))] == [[1, 2, 3], [1, 3], [1]]


def test_where_patches_are_read_nothing_is_dropped_by_leaving_out_sites() -> None:
    schedule = Schedule.of(32, [32, 32, 24, 10, 10], [32, 24, 10, 8, 8])
    merging = without_site(schedule, 1, False)
    assert [kept.pruned for kept in merging.blocks] == merging.entering()
    for seed in range(20):
        draw = random.Random(seed)
        rates = (0.2, 1e3, 2e3, 5e2, 3e3, draw.uniform(0, 0.5), draw.uniform(0, 0.5), 0.0, 0.0)
        cost = Milliseconds(macs(None), rates, 10.0, 0, None)
        for each in drawn_schedules(WHOLE, range(1, 5), False, 5, draw)[1:]:
            found = with_fewer_sites(each, cost, 0.8 * cost.of(WHOLE), harm, False)
            assert [kept.pruned for kept in found.blocks] == found.entering()


def harm(schedule: Schedule) -> float:
    """Grows with what goes, and faster the earlier it goes."""
    total = 0.0
    for block, (kept, given) in enumerate(zip(schedule.blocks, schedule.entering(), strict=True)):
        total += (given - kept.merged) ** 1.5 * (5 - block) + 0.5 * (given - kept.pruned)
    return total


def test_no_site_stays_that_takes_more_than_it_saves() -> None:
    cost = Milliseconds(macs(), (0.2, 1e3, 2e3, 5e2, 3e3, 0.5, 0.0, 0.0, 0.0), 10.0, 0, None)
    schedule = Schedule.of(32, [32, 31, 12, 11, 11], [32, 31, 12, 11, 11])
    left = paying(schedule, cost, True)
    assert cost.of(left) < cost.of(schedule)
    for site in sites_of(left):
        assert cost.of(without_site(left, site, True)) > cost.of(left)
    assert paying(WHOLE, cost, True) == WHOLE


def test_where_sites_take_time_fewer_of_them_do_less_harm_in_the_same_time() -> None:
    for site in (0.0, 0.05, 0.2):
        rates = (0.2, 1e4, 2e4, 1e4, 3e4, site, 0.0, 0.0, 0.0)
        cost = Milliseconds(macs(), rates, 1.0, 0, None)
        limit = 0.7 * cost.of(WHOLE)
        found = greedy(WHOLE, range(1, 4), cost, limit, harm, True)
        better = with_fewer_sites(found, cost, limit, harm, True)
        assert cost.of(better) <= limit and harm(better) <= harm(paying(found, cost, True))
        assert better.sites <= found.sites
    assert better.sites == 1  # where one takes a fifth of a millisecond


def test_the_fewest_tokens_within_a_drop_are_found_in_steps() -> None:
    cost = macs()
    asked: list[float] = []

    def points(schedule: Schedule) -> float:
        asked.append(cost.of(schedule) / cost.whole)
        return 0.0 if asked[-1] > 0.63 else 3.0

    def search(limit: float, start: Schedule) -> Schedule:
        return greedy(start, range(1, 4), cost, limit, harm, True)

    found = most_within(WHOLE, cost, search, points, 1.0)
    assert 0.63 < cost.of(found) / cost.whole < 0.66 and len(asked) < 15
    assert most_within(WHOLE, cost, search, lambda _: 5.0, 1.0) == WHOLE
    assert all(kept.merged <= 32 for kept in most_within(WHOLE, cost, search, lambda _: 0.0, 1.0).blocks)


def trained_vit() -> Model:
    network = vit()
    network.load_state_dict(load_file(Path(digits_example.__file__).parent / "vit.safetensors"))
    return Model(network.eval(), (torch.zeros(1, 1, 32, 32),))


def test_a_drop_counts_a_standard_error_of_the_difference(tmp_path: Path) -> None:
    model, context = trained_vit(), context_in(tmp_path)
    broken = trained_vit()
    with torch.no_grad():
        broken.module.get_parameter("head.bias")[0] += 8.0
    drop = MetricDrop(model, replace(context, metric=TopK(1)), lambda _: broken)
    part = context.data.validation
    before, after = (TopK(1).measure(m.in_batches()[0], part).scores for m in (model, broken))
    lost = before - after
    by_hand = 100 * (lost.mean() + lost.std(ddof=1) / len(lost) ** 0.5)
    assert lost.any() and drop.points(WHOLE) == pytest.approx(by_hand)
    assert f"{100 * lost.mean():.2f} points below" in drop.told(WHOLE)


def beside(rates: Sequence[float]) -> object:
    """Times as a device would take that goes by these rates, of networks of the digits ViT."""

    def times(model: Model, others: Sequence[Model]) -> list[Times]:
        found = []
        for other in others:
            blocks = other.module.get_submodule("blocks")
            sites = [block for block in blocks.each if block.kept is not None]  # type: ignore[operator, union-attr]
            merging = sum(block.kept.merged < block.kept.pruned for block in sites)
            facts = other.facts().macs
            assert facts is not None
            ms = rates[0] * facts / 1e6 + rates[1] * len(sites) + rates[2] * merging
            found.append(Times((ms / 12, ms / 12), (12.0, 12.0), ms))
        return found

    return times


@pytest.mark.parametrize(("options", "share"), [({"target": 0.6}, 0.6), ({"target_ms": 7.2}, 0.6)])
def test_a_target_in_milliseconds_is_met_as_measured(
    tmp_path: Path, options: dict[str, float], share: float
) -> None:
    times = beside((1.0, 0.1, 0.2))
    context = replace(context_in(tmp_path), times=times, ends_in="int8", batch=1)  # type: ignore[arg-type]
    chosen = Tokens.model_validate({"cost": "latency", "start": 0, **options})
    result = chosen.apply(trained_vit(), context)
    [measured] = times(trained_vit(), [result.model])  # type: ignore[operator]
    assert 0.9 * share <= measured.ratio <= 1.01 * share
    [note] = [note for note in result.notes if note.startswith("measured at ")]
    assert f"measured at {measured.ratio:.3f} of the whole network's 12 ms (int8, batch 1)" in note
    assert "of its own" in note


@pytest.mark.parametrize("rates", [(1.0, 1.5, 0.0), (1.0, 0.3, 1.5)])
@pytest.mark.parametrize("method", ["greedy", "learned"])
def test_where_sites_take_much_the_target_is_met_by_few(
    tmp_path: Path, method: str, rates: tuple[float, float, float]
) -> None:
    times = beside(rates)
    context = replace(context_in(tmp_path), times=times)  # type: ignore[arg-type]
    training = {"training": {"epochs": 1}} if method == "learned" else {}
    chosen = Tokens.model_validate(
        {"cost": "latency", "start": 0, "target": 0.65, "method": method, **training}
    )
    result = chosen.apply(trained_vit(), context)
    [measured] = times(trained_vit(), [result.model])  # type: ignore[operator]
    assert measured.ratio <= 1.01 * 0.65
    [note] = [note for note in result.notes if note.startswith("measured at ")]
    assert ", 0.650 were asked for;" in note


def test_a_target_that_is_met_whole_takes_one_network_to_see(tmp_path: Path) -> None:
    asked: list[int] = []
    times = beside((1.0, 0.1, 0.1))

    def counted(model: Model, others: Sequence[Model]) -> list[Times]:
        asked.append(len(others))
        return times(model, others)  # type: ignore[operator, no-any-return]

    context = replace(context_in(tmp_path), times=counted)
    chosen = Tokens.model_validate({"cost": "latency", "start": 0, "target_ms": 1000})
    result = chosen.apply(trained_vit(), context)
    assert (
        asked == [1] and "the target is met with all tokens that are read, and no others go" in result.notes
    )


def test_counts_are_not_learned_without_samples_to_learn_from(tmp_path: Path) -> None:
    context = context_in(tmp_path)
    context = replace(context, data=replace(context.data, train=context.data.train.head(0)))
    with pytest.raises(CompressError, match=r"tokens: it trains on the train part .* take method: greedy"):
        Tokens.model_validate({"target": 0.6, "method": "learned"}).apply(trained_vit(), context)


def test_what_no_device_can_reach_is_refused_with_how_far_it_gets(tmp_path: Path) -> None:
    context = replace(context_in(tmp_path), times=beside((1.0, 6.0, 0.0)))  # type: ignore[arg-type]
    slow = Tokens.model_validate({"cost": "latency", "start": 0, "target": 0.6})
    with pytest.raises(
        CompressError, match=r"tokens: target: 0\.6 of the latency cannot be reached: .* are left"
    ):
        slow.apply(trained_vit(), context)
    with pytest.raises(CompressError, match="cost: latency needs a device to time networks on"):
        slow.apply(trained_vit(), replace(context, times=None))
    assert slow.measures_latency() and not Tokens().measures_latency()


def test_counts_fall_from_block_to_block_whatever_is_drawn() -> None:
    for seed in range(50):
        for each in drawn_schedules(WHOLE, range(4), True, 3, random.Random(seed)):
            flat = [count for kept in each.blocks for count in (kept.pruned, kept.merged)]
            assert all(after <= before for before, after in pairwise([32, *flat])) and flat[-1] >= 1
            assert Kept.model_validate(each.blocks[0].model_dump()) == each.blocks[0]
