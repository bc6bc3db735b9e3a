"""Times of networks beside the one that they are made from: measured once, and taken from the store after that."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from edgepress.model import Model
from edgepress.pipeline.devices.sections import DeviceSection
from edgepress.pipeline.prepare import Prepared
from edgepress.pipeline.recipe.file import read_recipe
from edgepress.pipeline.store import Store
from edgepress.pipeline.tabulate.beside import TimingPlan
from edgepress.pipeline.tabulate.kept_times import kept_times
from edgepress.progress import Silent
from small_run import write_recipe
from torch import nn

PLAN = TimingPlan("float", rounds=2, iterations=11, warmup_s=0)
FAKE = {
    "simulated": DeviceSection.model_validate(
        {"runtime": "fake", "noise": {"launch_sd": 0, "iteration_sd": 0}}
    )
}


@dataclass
class Told(Silent):
    """Keeps what was said."""

    said: list[str] = field(default_factory=list)

    def say(self, message: str) -> None:
        self.said.append(message)


def network(width: int) -> Model:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, width, 3), nn.ReLU(), nn.Flatten(), nn.Linear(width * 36, 4))
    return Model(module.eval(), (torch.randn(1, 1, 8, 8),), source=f"width {width}")


def test_each_network_is_timed_once_for_a_device_and_a_plan(tmp_path: Path) -> None:
    store, whole, others = Store(tmp_path), network(64), [network(64), network(16)]
    first = kept_times(store, whole, others, FAKE, PLAN)
    assert len(first) == 2 and all(len(times.ratios) == 2 for times in first)
    assert first[0].ratio == pytest.approx(1, rel=0.2) and first[1].median_whole_ms > 0
    entries = len(list(tmp_path.iterdir()))
    assert kept_times(store, whole, [others[1], network(8), others[0]], FAKE, PLAN)[::2] == first[::-1]
    assert len(list(tmp_path.iterdir())) == entries + 1  # of the one that was new
    kept_times(store, whole, others[:1], FAKE, replace(PLAN, rounds=3))
    assert len(list(tmp_path.iterdir())) == entries + 2


def test_a_smaller_network_takes_less_on_a_real_device() -> None:
    device = {"openvino:CPU": DeviceSection(runtime="openvino", device="CPU")}
    [times] = kept_times(None, network(256), [network(4)], device, replace(PLAN, precision="int8"))
    assert 0 < times.ratio < 1 and times.ms > 0


def test_a_recipe_times_networks_on_its_first_device(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, targets=["onnxruntime"], passes=[])
    prepared = Prepared(read_recipe(recipe), tmp_path)
    data, model = prepared.read()
    times = prepared.context(data).times
    assert times is not None
    [found] = times(model, [model])
    assert len(found.ratios) == prepared.tabulate_plan.rounds and found.ratio > 0
