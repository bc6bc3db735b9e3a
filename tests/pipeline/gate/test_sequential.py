"""The sequential test: bounds worked out by hand, and how often it errs on simulated devices."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from math import exp, log, sqrt

import numpy as np
import pytest
from edgepress.pipeline.gate.pairs import gate_latency
from edgepress.pipeline.gate.sequential import Limits, look, smallest_slowdown
from edgepress.pipeline.gate.verdict import latency_measure, settle
from edgepress.targets.measuring.fake import FakeDevice, Noise
from edgepress.targets.measuring.feeds import repeated
from edgepress.targets.measuring.latency import LaunchSamples, speedup_in_turns, summarize
from edgepress.targets.measuring.turns import LaunchPlan

PAIR = 1 / sqrt(2)
"""A pair's sd over a launch's."""


def test_bounds_of_six_pairs() -> None:
    """d = 4, 5, 6, 4, 5, 6 %: mean 5 %, sd sqrt(0.8) %; t(1 - 0.0025, 5) = 4.773341, t(1 - 0.0125, 5) = 3.163381."""
    d = np.array([4, 5, 6, 4, 5, 6]) / 100
    found = look(list(d), 10.0, Limits())
    error = sqrt(0.8) / 100 / sqrt(6)
    assert found.ratio == pytest.approx(exp(0.05))
    assert found.lower == pytest.approx(exp(0.05 - 4.773341 * error), rel=1e-6)
    assert found.upper == pytest.approx(exp(0.05 + 3.163381 * error), rel=1e-6)
    assert found.decision == "FAIL"


@pytest.mark.parametrize(
    ("changes", "milliseconds", "decision"),
    [
        pytest.param([0.1, -0.1, 0.2, -0.2, 0.1, 0.0], 10, "PASS", id="the same"),
        pytest.param([7.0, 7.1, 7.2, 6.9, 7.0, 7.1], 10, "FAIL", id="7 % slower"),
        pytest.param([-7.0, -7.1, -7.2, -6.9, -7.0, -7.1], 10, "PASS", id="7 % faster"),
        pytest.param([0.9, 0.8, 0.9, 1.0, 0.8, 0.9], 10, "PASS", id="within the tolerance"),
        pytest.param(
            [2.9, 3.1, 3.0, 3.0, 2.9, 3.1], 10, "FAIL", id="3 %, below the budget, and surely no noise"
        ),
        pytest.param([5, -5, 6, -6, 5, -4], 10, "MORE", id="too noisy"),
        pytest.param([1, 0, -1, 0, 1, 40], 10, "MORE", id="one throttled pair"),
        pytest.param(
            [7.0, 7.1, 7.2, 6.9, 7.0, 7.1], 0.1, "PASS", id="7 % of 0.1 ms are below the floor of 20 us"
        ),
        pytest.param([60.0, 61.0, 60.0, 61.0, 60.0, 61.0], 0.1, "FAIL", id="60 % of 0.1 ms are above it"),
    ],
)
def test_decisions(changes: list[float], milliseconds: float, decision: str) -> None:
    assert look(list(np.array(changes) / 100), milliseconds, Limits()).decision == decision


def test_signed_ranks_must_agree() -> None:
    """One of twelve pairs disagrees strongly enough for ranks (p = 0.0005 > 0.0002), not for t."""
    d = np.array([7.0] * 11 + [0.2]) / 100 + np.linspace(0, 1e-4, 12)
    strict = Limits(looks=(12,), false_fail=0.0003)
    found = look(list(d), 10.0, strict)
    assert found.lower > 1 + strict.tolerance
    assert (found.ranks_fail, found.decision) == (False, "MORE")


@pytest.mark.parametrize(("sd", "milliseconds"), [(0.005, 10.0), (0.025, 10.0), (0.01, 0.3)])
def test_the_smallest_slowdown_is_what_gates_catch(sd: float, milliseconds: float) -> None:
    """By the whole procedure, early PASS and floor included: 95 % are asked for, 2 % less allowed to chance."""
    change = log(1 + smallest_slowdown(sd, milliseconds, Limits()))
    draw, caught = np.random.default_rng(7), 0
    for _ in range(1000):
        d = change + sd * draw.standard_normal(30)
        looks = (look(list(d[:n]), milliseconds, Limits()).decision for n in Limits().looks)
        caught += next((decision for decision in looks if decision != "MORE"), "MORE") == "FAIL"
    assert caught >= 930


def test_the_floor_is_held_as_surely_as_the_tolerance() -> None:
    """1 ms and 19.5 us more, which nobody notices: of 500 gates 1 % may FAIL."""
    draw, failed = np.random.default_rng(0), 0
    for _ in range(500):
        d = log(1.0195) + 0.005 * draw.standard_normal(30)
        looks = (look(list(d[:n]), 1.0, Limits()).decision for n in Limits().looks)
        failed += next((decision for decision in looks if decision != "MORE"), "MORE") == "FAIL"
    assert failed <= 10


# On simulated devices. What is asked of the gate: at most 1 % false FAIL, 95 % of slowdowns of 5 % caught at sd 2.5 %.

GATES = 500
"""Enough to tell: a gate that errs in 3 of 100 cases has at most the 5 false FAIL of 500 that are allowed in 3 of
1,000 simulations, and one that catches 92 of 100 slowdowns catches the 475 that are asked for in 6 of 1,000."""
NOISES = {
    "sd 0.8 %": Noise(launch_sd=0.008 * PAIR),
    "sd 1.5 %": Noise(launch_sd=0.015 * PAIR),
    "sd 2.5 %": Noise(launch_sd=0.025 * PAIR),
    "sd 6.6 %": Noise(launch_sd=0.066 * PAIR),
    "drift": Noise(launch_sd=0.025 * PAIR, drift_sd=0.01),
    "spikes": Noise(launch_sd=0.025 * PAIR, spike_rate=0.1),
    "throttling": Noise(launch_sd=0.025 * PAIR, throttle_rate=0.05, throttle_launches=3),
    "throttling, told": Noise(launch_sd=0.025 * PAIR, throttle_rate=0.05, throttle_told=True),
    "lost connections": Noise(launch_sd=0.025 * PAIR, disconnect_rate=0.05),
}


def verdicts(noise: Noise, slowdown: float, gates: int = GATES) -> Counter[str]:
    """The verdicts of so many gates of an engine of 5 ms against one so much slower."""
    found: Counter[str] = Counter()
    for seed in range(gates):
        device = FakeDevice(noise=noise, seed=seed)
        engines = device.engine(5.0), device.engine(5.0 * (1 + slowdown))
        result = gate_latency(device, *engines, repeated({}), Limits(), LaunchPlan(iterations=30, seed=seed))
        _, verdict, _ = settle([latency_measure("fake", result, Limits())], Limits())
        found[verdict] += 1
    return found


@pytest.mark.parametrize("name", NOISES)
def test_identical_builds_rarely_fail(name: str) -> None:
    """Allowed 1 %, which are 5 of 500; 0 and once 1 were seen, and of 2,000 up to 0.1 %."""
    found = verdicts(NOISES[name], 0.0)
    assert found["FAIL"] <= 0.01 * GATES, found


@pytest.mark.parametrize("name", ["sd 0.8 %", "sd 1.5 %", "sd 2.5 %", "drift", "spikes", "throttling, told"])
def test_slowdowns_of_five_per_cent_are_caught(name: str) -> None:
    """Asked for are 475 of 500; 491 to 500 were seen."""
    found = verdicts(NOISES[name], 0.05)
    assert found["FAIL"] >= 0.95 * GATES, found


def test_a_throttled_pair_alone_never_fails() -> None:
    """Clean pairs but one, whose candidate launch alone was throttled, by 5 to 150 %, at any place."""
    draw = np.random.default_rng(0)
    for _ in range(2000):
        pairs = int(draw.choice(Limits().looks))
        d = 0.025 * draw.standard_normal(pairs)
        d[draw.integers(pairs)] += draw.uniform(0.05, 0.9)
        assert look(list(d), 5.0, Limits()).decision != "FAIL"


def test_throttled_and_lost_pairs_are_set_aside_and_measured_anew() -> None:
    noise = Noise(launch_sd=0.01, throttle_rate=0.2, throttle_told=True, disconnect_rate=0.05)
    device = FakeDevice(noise=noise, seed=3)
    result = gate_latency(
        device, device.engine(5.0), device.engine(5.0), repeated({}), Limits(), LaunchPlan(30, seed=3)
    )
    assert {"the CPU throttled 1 times", "fake: the connection was lost"} >= set(result.set_aside) != set()
    assert [row.pair for row in result.launches] == [i // 2 for i in range(len(result.launches))]
    assert all(row.median_ms < 6 for row in result.launches)  # a throttled launch takes 7.5 ms


def test_a_device_that_stays_away_is_inconclusive() -> None:
    device = FakeDevice(noise=Noise(disconnect_rate=0.999), seed=0)
    result = gate_latency(
        device, device.engine(5.0), device.engine(9.0), repeated({}), Limits(), LaunchPlan(30)
    )
    (measure,), verdict, reason = settle([latency_measure("fake", result, Limits())], Limits())
    assert result.lost
    assert (measure.verdict, verdict, result.looks) == ("INCONCLUSIVE", "INCONCLUSIVE", [])
    assert "10 pairs were set aside, the last because fake: the connection was lost" in reason


# Intervals: what is said to hold in 95 of 100 cases does.


def coverage(holds: Callable[[int], bool], runs: int = 2000) -> float:
    return sum(holds(seed) for seed in range(runs)) / runs


def launches(noise: Noise, seed: int, milliseconds: tuple[float, ...], pairs: int) -> list[LaunchSamples]:
    device = FakeDevice(noise=noise, seed=seed)
    found = []
    for pair in range(pairs):
        for label, ms in enumerate(milliseconds):
            result = device.launch(device.engine(ms), repeated({}), 30, 0)
            found.append(LaunchSamples(str(label), pair, len(found), result))
    return found


@pytest.mark.parametrize("pairs", [3, 6, 20])
def test_intervals_of_a_latency_cover(pairs: int) -> None:
    """The median launch of a device of 5 ms; 2,000 runs, nominal 95 %."""

    def holds(seed: int) -> bool:
        low, high = summarize(launches(NOISES["sd 6.6 %"], seed, (5.0,), pairs)).ci95
        return low <= 5.0 <= high

    assert 0.93 <= coverage(holds) <= 0.97


@pytest.mark.parametrize("name", ["sd 2.5 %", "sd 6.6 %", "drift", "spikes"])
def test_intervals_of_a_speedup_cover(name: str) -> None:
    """8 ms against 5 ms, 6 pairs, also while the device drifts; 2,000 runs, nominal 95 %."""

    def holds(seed: int) -> bool:
        found = launches(NOISES[name], seed, (8.0, 5.0), 6)
        low, high = speedup_in_turns(*([x for x in found if x.label == side] for side in "01")).ci95
        return log(low) <= log(8 / 5) <= log(high)

    assert 0.93 <= coverage(holds) <= 0.97
