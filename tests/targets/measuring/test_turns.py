"""Rounds of launches in turns: what is set aside of them, and what a device that does not last is told as."""

from __future__ import annotations

from itertools import islice

from edgepress.errors import CompressError
from edgepress.targets.measuring.device import DeviceLostError
from edgepress.targets.measuring.fake import FakeDevice, Noise
from edgepress.targets.measuring.feeds import repeated
from edgepress.targets.measuring.turns import SET_ASIDE, LaunchPlan, Losses, launch_rounds, too_few

PLAN = LaunchPlan(iterations=20, seed=3)
TOLD = Noise(launch_sd=0, iteration_sd=0, throttle_rate=0.1, throttle_told=True)


def three(device: FakeDevice) -> list:
    return [(device.engine(ms), repeated({})) for ms in (1.0, 2.0, 4.0)]


def test_every_engine_is_launched_once_a_round_and_told_in_its_place():
    device, losses = FakeDevice(noise=Noise(launch_sd=0.0, iteration_sd=0.0)), Losses()
    rounds = list(islice(launch_rounds(device, three(device), PLAN, losses), 5))
    assert [[r.median_ns for r in taken] for taken in rounds] == [[1e6, 2e6, 4e6]] * 5
    assert losses == Losses()


def test_a_round_in_which_the_device_throttled_is_measured_anew():
    device, losses = FakeDevice(noise=TOLD), Losses()
    rounds = list(islice(launch_rounds(device, three(device), PLAN, losses), 8))
    assert [[r.median_ns for r in taken] for taken in rounds] == [[1e6, 2e6, 4e6]] * 8
    assert set(losses.set_aside) == {"the CPU throttled 1 times"} and not losses.lost


def test_a_device_that_keeps_throttling_is_unfit():
    device, losses = FakeDevice(noise=Noise(throttle_rate=1.0, throttle_told=True)), Losses()
    assert list(launch_rounds(device, three(device), PLAN, losses)) == []
    assert len(losses.set_aside) == SET_ASIDE
    error = too_few("sim", "0 of 6 rounds of launches", losses)
    assert type(error) is CompressError
    assert str(error).startswith(
        "sim: unfit to be measured on, only 0 of 6 rounds of launches counted, as the CPU"
    )


def test_a_device_that_went_away_for_good_is_lost():
    device, losses = FakeDevice("sim", Noise(disconnect_rate=0.99)), Losses()
    assert list(launch_rounds(device, three(device), PLAN, losses)) == []
    error = too_few("sim", "0 of 6 rounds of launches", losses)
    assert isinstance(error, DeviceLostError)
    assert str(error).startswith(
        "sim: it was lost, only 0 of 6 rounds of launches counted, as the connection"
    )
