"""Launches that are fed several inputs: which sample is of which, on every way of timing, and what is kept of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from branching import branching, sample
from edgepress.targets import TARGETS
from edgepress.targets.base import TargetOptions
from edgepress.targets.measuring.digests import outputs_digest
from edgepress.targets.measuring.fake import FakeDevice, Noise
from edgepress.targets.measuring.feeds import FeedSequence, read_feeds, repeated, save_feeds, whole_walks
from edgepress.targets.measuring.latency import LaunchSamples, speedup_in_turns, summarize
from edgepress.targets.measuring.launch import LaunchSpec, launch, launch_turns
from edgepress.targets.measuring.worker import steady
from onnx.helper import make_node
from tiny_onnx import model_of

HARD = (True, False, False, True, False)  # which inputs take the long way
SLOWER = 2.0  # some fifteen times is usual; on a busy machine what any call takes at all may be half of it


def sequence(hard: tuple[bool, ...] = HARD) -> FeedSequence:
    feeds = tuple({"x": sample(each, seed)} for seed, each in enumerate(hard))
    return FeedSequence(feeds, f"{len(feeds)} inputs")


def per_input(samples_ns: tuple[int, ...], inputs: int) -> list[int]:
    """The least time of each input: whatever else runs on the machine only adds to it."""
    return [min(samples_ns[number::inputs]) for number in range(inputs)]


def takes_the_ways(samples_ns: tuple[int, ...], hard: tuple[bool, ...] = HARD) -> bool:
    """Whether each input that takes the long way is slower than every one that does not."""
    times = per_input(samples_ns, len(hard))
    long = [ns for ns, far in zip(times, hard, strict=True) if far]
    short = [ns for ns, far in zip(times, hard, strict=True) if not far]
    return min(long) > SLOWER * max(short)


def spec_of(folder, runtime: str, options: TargetOptions, save) -> LaunchSpec:
    engine = TARGETS[runtime].build(save(branching()), options, folder / "engine")
    saved = save_feeds(sequence().feeds, folder)
    return LaunchSpec(runtime, engine.artefacts[0].path, options, saved, 21, 0.2, inputs=len(HARD))


@pytest.mark.parametrize("copies", [True, False], ids=["with copies", "inputs in place"])
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_sample_i_is_of_input_i_modulo_their_number(runtime, copies, save, tmp_path):
    result = launch(spec_of(tmp_path, runtime, TargetOptions(threads=1, copies=copies), save))
    assert len(result.samples_ns) == 25  # 21 were asked for: each of five equally often
    assert takes_the_ways(result.samples_ns)


def test_a_flood_of_inferences_is_of_one_input_too(save, tmp_path):
    options = TargetOptions(threads=1, mode="throughput", streams=1)
    result = launch(replace(spec_of(tmp_path, "onnxruntime", options, save), iterations=10))
    assert len(result.samples_ns) == 10 and result.calls_per_sample >= 8
    assert takes_the_ways(result.samples_ns)


def test_engines_in_turns_see_the_same_inputs(save, tmp_path):
    spec = spec_of(tmp_path, "onnxruntime", TargetOptions(threads=1), save)
    results = launch_turns([spec] * 3, order_seed=0)
    assert [len(r.samples_ns) for r in results] == [25] * 3  # two turns of ten, and one to the last input
    assert all(takes_the_ways(r.samples_ns) for r in results)


def test_memory_of_further_inputs_is_not_told_as_the_engines(save, tmp_path):
    """2,000 inputs of 50 kB: 100 MB that only a launch holds; the rest scatters by some MB."""
    engine = TARGETS["onnxruntime"].build(save(wide()), TargetOptions(), tmp_path / "engine")
    peaks = []
    for inputs in (1, 2000):
        saved = save_feeds([{"x": np.ones((1, 8, 8, 196), np.float32)}] * inputs, tmp_path)
        spec = LaunchSpec(
            "onnxruntime", engine.artefacts[0].path, TargetOptions(), saved, 1, 0, inputs=inputs
        )
        peaks.append(launch(spec).peak_bytes)
    if None not in peaks:  # this machine does not tell
        assert abs(peaks[1] - peaks[0]) < 50e6


def wide():
    return model_of([make_node("Relu", ["x"], ["y"])], {}, shape=(1, 8, 8, 196))


def test_what_is_saved_comes_back_in_order(tmp_path):
    feeds = [{"a/b:0": np.full((1, 3), i, np.int64), "names": np.ones(2, np.float32)} for i in range(3)]
    back = read_feeds(save_feeds(feeds, tmp_path))
    assert [list(each) for each in back] == [["a/b:0", "names"]] * 3
    assert [int(each["a/b:0"][0, 0]) for each in back] == [0, 1, 2]
    with pytest.raises(ValueError, match="2 arrays of inputs that take 0 each"):
        path = tmp_path / "odd.npz"
        np.savez(path, names=np.array([]), array_0=np.ones(1), array_1=np.ones(1))
        read_feeds(path)


def test_the_digest_tells_values_and_order_and_of_one_input_what_it_always_told():
    one, other = sequence((True, False)), sequence((False, True))
    assert one.sha256 == sequence((True, False)).sha256 != other.sha256
    array = np.arange(4.0)
    assert repeated({"b": array, "a": array + 1}).sha256 == outputs_digest([array + 1, array])


@pytest.mark.parametrize(
    ("iterations", "inputs", "samples"), [(11, 1, 11), (60, 64, 64), (65, 64, 128), (6, 3, 6)]
)
def test_every_input_comes_equally_often(iterations, inputs, samples):
    assert whole_walks(iterations, inputs) == samples


def test_warm_up_compares_whole_walks():
    """Times that depend on the input never agree within windows of ten, and do from walk to walk."""
    walk = [1.0] * 5 + [9.0] * 7
    assert steady(walk * 3, window=12)
    assert not steady(walk * 2, window=12) and not steady([*walk * 2, *[1.1 * x for x in walk]], window=12)


def test_what_a_summary_tells_of_its_inputs():
    fed = sequence()
    device = FakeDevice()
    launches = [LaunchSamples("a", i, i, device.launch(device.engine(1.0), fed, 20, 0)) for i in range(2)]
    found = summarize(launches, fed)
    assert (found.inputs, found.inputs_sha256, found.inputs_origin) == (5, fed.sha256, "5 inputs")
    assert summarize(launches).inputs_origin == ""


def test_inputs_of_a_simulated_device_have_levels_that_its_engines_share():
    """Levels of 50 %: between the engines of a turn nothing of them is left, and the ratio of 2 is exact."""
    device = FakeDevice(noise=Noise(launch_sd=0.0, input_sd=0.5, iteration_sd=0.0))
    fed = sequence((True,) * 8)
    engines = [(device.engine(2.0), fed), (device.engine(1.0), fed)]
    rounds = [device.launch_turns(engines, 20, 0, seed) for seed in range(2)]
    times = per_input(rounds[0][0].samples_ns, 8)
    assert len(set(times)) == 8 and max(times) > 1.5 * min(times)
    assert [len(r.samples_ns) for r in rounds[0]] == [24, 24]
    sides = [[LaunchSamples("", i, i, taken[side]) for i, taken in enumerate(rounds)] for side in (0, 1)]
    assert speedup_in_turns(*sides).ratio == pytest.approx(2.0, rel=1e-5)
