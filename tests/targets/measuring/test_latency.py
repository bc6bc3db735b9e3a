"""The statistics against numbers worked out by hand, and real launches."""

from __future__ import annotations

from dataclasses import replace
from math import exp, log, sqrt
from pathlib import Path

import numpy as np
import psutil
import pytest
from edgepress.errors import CompressError
from edgepress.isolated import Limits
from edgepress.targets.base import TargetOptions
from edgepress.targets.measuring.device import LocalDevice
from edgepress.targets.measuring.feeds import read_feeds, repeated, save_feeds
from edgepress.targets.measuring.latency import (
    LaunchSamples,
    of,
    speedup_in_turns,
    summarize,
)
from edgepress.targets.measuring.launch import (
    LaunchResult,
    LaunchSpec,
    launch,
    launch_turns,
    paired_log_ratio,
)
from edgepress.targets.measuring.turns import LaunchPlan, measure_rounds
from edgepress.targets.measuring.worker import steady
from onnx.helper import make_node
from tiny_onnx import conv_float, conv_qdq, model_of


def a_launch(samples_ms, label="a", index=0, warmed_up=True):
    result = LaunchResult(
        load_ms=5.0,
        first_inference_ms=2.0,
        warmup_iterations=30,
        warmup_s=0.1,
        warmed_up=warmed_up,
        calls_per_sample=1,
        samples_ns=tuple(round(ms * 1e6) for ms in samples_ms),
        settings={},
        started_at="2025-01-01T00:00:00+00:00",
    )
    return LaunchSamples(label, index, index, result)


def test_summary_of_three_launches():
    """Launch medians 1, 2, 4 ms: logs 0, log 2, 2 log 2, mean log 2, sd log 2; t(0.975, 2) = 4.302653."""
    found = summarize([a_launch([m] * 11, index=i) for i, m in enumerate((1.0, 2.0, 4.0))])
    assert found.p50 == 2.0
    half = 4.302653 * log(2) / sqrt(3)
    assert found.ci95 == pytest.approx((exp(log(2) - half), exp(log(2) + half)), rel=1e-6)
    assert (found.n, found.launches, found.load_ms, found.first_inference_ms) == (33, 3, 5.0, 2.0)
    assert found.samples_ms[2] == (4.0,) * 11


@pytest.mark.parametrize(
    ("n", "p90", "p99", "note"),
    [
        pytest.param(62, None, None, "n = 62, p90 needs 64; n = 62, p99 needs 662", id="too few for any"),
        pytest.param(64, 58, None, "n = 64, p99 needs 662", id="p90 from 64"),
        pytest.param(660, 594, None, "n = 660, p99 needs 662", id="two short of p99"),
        pytest.param(662, 596, 656, "", id="p99 from 662"),
    ],
)
def test_a_percentile_that_the_sample_cannot_support_is_absent_and_says_so(n, p90, p99, note):
    """Samples 1, 2 ... n: the percentile q is the ceil(q n)-th of them."""
    found = summarize([a_launch(range(1, n // 2 + 1)), a_launch(range(n // 2 + 1, n + 1))])
    assert (found.p90, found.p99, found.note) == (p90, p99, note)


def test_a_launch_that_never_got_steady_is_noted():
    found = summarize([a_launch([1] * 400), a_launch([1] * 400, warmed_up=False)])
    assert found.note.startswith("1 of 2 launches were not steady")


def test_speedup_is_paired_by_round():
    """Ratios 2, 2, 4 in any order of launches: mean log (2 log 2 + 2 log 2) / 3, sd log 2 / sqrt 3."""
    slow = [a_launch([m], "f", i) for i, m in ((2, 8.0), (0, 2.0), (1, 4.0))]
    fast = [a_launch([m], "q", i) for i, m in ((0, 1.0), (1, 2.0), (2, 2.0))]
    found = speedup_in_turns(of(slow, "f"), of(fast, "q"))
    centre, half = 4 * log(2) / 3, 4.302653 * (log(2) / sqrt(3)) / sqrt(3)
    assert found.ratio == pytest.approx(exp(centre), rel=1e-9)
    assert found.ci95 == pytest.approx((exp(centre - half), exp(centre + half)), rel=1e-6)
    assert found.pairs == 3


def test_drift_that_hits_both_engines_leaves_the_speedup_sharp():
    slow = [a_launch([2.0 * drift], "f", i) for i, drift in enumerate((1, 3, 9))]
    fast = [a_launch([1.0 * drift], "q", i) for i, drift in enumerate((1, 3, 9))]
    assert speedup_in_turns(slow, fast).ci95 == pytest.approx((2.0, 2.0))


def test_one_launch_has_no_interval():
    with pytest.raises(CompressError, match="at least 2"):
        summarize([a_launch([1.0])])


@pytest.mark.parametrize(
    ("times", "is_steady"),
    [
        pytest.param([1.0] * 30, True, id="three equal windows"),
        pytest.param([1.0] * 29, False, id="a window short"),
        pytest.param([1.0] * 20 + [1.02] * 10, False, id="the last window is 2 % off"),
        pytest.param([5.0] * 10 + [1.0] * 30, True, id="only the last three windows count"),
        pytest.param(([1.0] * 9 + [50.0]) * 3, True, id="single spikes do not move a median"),
    ],
)
def test_when_warm_up_is_over(times, is_steady):
    assert steady(times) is is_steady


def test_feeds_survive_the_way_to_the_worker(tmp_path):
    feeds = {"a/b:0": np.arange(6, dtype=np.int64).reshape(2, 3), "names": np.ones(2, np.float32)}
    (back,) = read_feeds(save_feeds([feeds], tmp_path))
    assert list(back) == list(feeds)
    assert all(np.array_equal(back[k], feeds[k]) and back[k].dtype == feeds[k].dtype for k in feeds)


def test_real_launches_of_two_engines_are_counted(save, feeds, tmp_path):
    device = LocalDevice("here", "openvino", TargetOptions(threads=1), tmp_path)
    engines = {
        label: device.build(save(model, f"{label}.onnx"), tmp_path / label, feeds, "f32")
        for label, model in (("float", conv_float()), ("int8", conv_qdq()))
    }
    launches = measure_rounds(device, engines, repeated(feeds), 2, LaunchPlan(20, 0.1))
    assert [x.order for x in launches] == [0, 1, 2, 3]
    assert [sorted(x.label for x in launches[i : i + 2]) for i in (0, 2)] == [["float", "int8"]] * 2
    assert all(len(x.result.samples_ns) == 20 and min(x.result.samples_ns) > 0 for x in launches)
    assert launches[0].result.settings["INFERENCE_PRECISION_HINT"] == "f32"
    found = summarize(of(launches, "int8"))
    assert (found.n, found.launches) == (40, 2) and found.load_ms > 0 and found.first_inference_ms > 0
    assert speedup_in_turns(of(launches, "float"), of(launches, "int8")).pairs == 2


def test_real_launches_of_several_engines_take_turns_in_each_round(save, feeds, tmp_path):
    device = LocalDevice("here", "openvino", TargetOptions(threads=1), tmp_path)
    engine = device.build(save(conv_float(), "net.onnx"), tmp_path / "e", feeds, "f32")
    engines = dict.fromkeys(("one", "two", "three"), engine)
    launches = measure_rounds(device, engines, repeated(feeds), 2, LaunchPlan(15, 0.1))
    assert [(x.label, x.round) for x in launches] == [(label, i) for i in (0, 1) for label in engines]
    assert all(len(x.result.samples_ns) == 20 for x in launches)  # whole turns of ten
    assert len({x.result.outputs_sha256 for x in launches}) == 1
    assert speedup_in_turns(of(launches, "one"), of(launches, "two")).pairs == 2
    with pytest.raises(
        CompressError, match="pairs is 1: an interval needs at least 2 launches of each engine"
    ):
        measure_rounds(device, engines, repeated(feeds), 1, LaunchPlan(15, 0.1))


def test_an_engine_is_built_and_launched_in_the_precision_that_is_asked_for(save, tmp_path):
    nodes = [make_node("Relu", ["x"], ["r"]), make_node("GlobalAveragePool", ["r"], ["y"])]
    path = save(model_of(nodes, {}))  # x of shape (N, 8, 8, 8)
    device = LocalDevice("here", "openvino", TargetOptions(threads=1, batch=1), tmp_path)
    feeds = {"x": np.ones((1, 8, 8, 8), np.float32)}
    own, forced = (device.build(path, tmp_path / str(p), feeds, p) for p in (None, "f32"))
    assert (own.options.float_precision, forced.options.float_precision) == ("default", "f32")
    result = device.launch(forced, repeated(feeds), 11, 0.1)
    assert result.settings["INFERENCE_PRECISION_HINT"] == "f32"
    assert forced.in_any_batch().options == TargetOptions(threads=1, float_precision="f32")
    two = {"x": np.ones((2, 8, 8, 8), np.float32)}
    before = set(psutil.Process().children())  # other tests of this process may have left some
    assert [len(y) for y in device.outputs(forced.in_any_batch(), two)] == [2]
    (engine,) = set(psutil.Process().children()) - before  # which stays open for the next inference
    device.launch(forced, repeated(feeds), 11, 0.1)
    assert not engine.is_running()  # nothing is beside what is timed


def test_a_speed_up_in_turns_is_the_mean_over_rounds_of_the_ratios_of_turns():
    """Round 0: 2, 2 and 4 in its turns; round 1: 8 in all. By hand: sqrt(2 * 8) = 4."""
    slow = [a_launch([2.0] * 10 + [10.0] * 10 + [36.0] * 10, index=0), a_launch([8.0] * 30, index=1)]
    fast = [a_launch([1.0] * 10 + [5.0] * 10 + [9.0] * 10, index=0), a_launch([1.0] * 30, index=1)]
    found = speedup_in_turns(slow, fast)
    assert found.ratio == pytest.approx(4.0) and found.pairs == 2


def test_two_launches_take_turns(save, feeds, tmp_path):
    spec = a_spec(save(conv_float()), feeds, tmp_path)
    first, second = launch_turns((spec, spec), order_seed=0)
    assert len(first.samples_ns) == len(second.samples_ns) == 20  # 11 were asked for: whole turns of ten
    assert first.outputs_sha256 == second.outputs_sha256
    assert first.joules is None or first.joules > 0  # by the machine's own counters


def test_a_pair_is_compared_turn_by_turn():
    """Turns of ten: ratios 2, 2 and 4 in turns that are themselves 1, 5 and 9 ms; the median is 2."""
    first = a_launch([1.0] * 10 + [5.0] * 10 + [9.0] * 10).result
    second = a_launch([2.0] * 10 + [10.0] * 10 + [36.0] * 10).result
    assert paired_log_ratio(first, second) == pytest.approx(log(2))


def test_one_of_a_pair_that_fails_ends_both(save, feeds, tmp_path):
    good = a_spec(save(conv_float()), feeds, tmp_path)
    with pytest.raises(
        CompressError, match=r"(?s)gone\.onnx on onnxruntime: the worker process ended.*gone\.onnx"
    ):
        launch_turns((good, a_spec(tmp_path / "gone.onnx", feeds, tmp_path)), order_seed=0)


def a_spec(path: Path, feeds, folder: Path, target="onnxruntime") -> LaunchSpec:
    return LaunchSpec(target, path, TargetOptions(), save_feeds([feeds], folder), 11, 0.1)


def test_a_failed_launch_tells_the_end_of_the_workers_error_output(tmp_path, feeds):
    with pytest.raises(
        CompressError, match=r"(?s)gone\.onnx on onnxruntime: the worker process ended.*gone\.onnx"
    ):
        launch(a_spec(tmp_path / "gone.onnx", feeds, tmp_path))


def test_wrong_inputs_reach_the_user_as_words(save, tmp_path):
    spec = a_spec(save(conv_float()), {"image": np.zeros((1, 8, 8, 8), np.float32)}, tmp_path)
    with pytest.raises(CompressError, match=r"exit code 2:\nthe model takes the inputs \['x'\]"):
        launch(spec)


def test_a_launch_that_takes_too_long_is_stopped(save, tmp_path, feeds):
    with pytest.raises(CompressError, match="no answer within"):
        launch(replace(a_spec(save(conv_float()), feeds, tmp_path), iterations=10**9), Limits(seconds=0.01))
