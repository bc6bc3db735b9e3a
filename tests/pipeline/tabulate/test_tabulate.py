"""Tables that are measured: on a device that is only noise, and once on a real one."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from click.testing import CliRunner
from edgepress.calibration.latency_table import LatencyTable
from edgepress.cli import cli
from edgepress.errors import CompressError
from edgepress.form import Form
from edgepress.model import Model
from edgepress.passes.channels.dissect import dissect
from edgepress.passes.quantize import Quantize
from edgepress.pipeline.devices.sections import DeviceSection
from edgepress.pipeline.prepare import Prepared
from edgepress.pipeline.recipe.file import read_recipe
from edgepress.pipeline.store import Store
from edgepress.pipeline.tabulate.bench import TabulatePlan
from edgepress.pipeline.tabulate.computed import computed_digest
from edgepress.pipeline.tabulate.page import table_html
from edgepress.pipeline.tabulate.run import layer_sizes, tabulate
from edgepress.pipeline.tabulate.smaller import drawn_kept, layer_widths
from edgepress.progress import Silent
from html_page import Page
from small_run import write_recipe
from torch import Tensor, nn

Item = TypeVar("Item")
QUIET = {"launch_sd": 0, "iteration_sd": 0}
FLOAT = TabulatePlan("float", probes=6, rounds=2, iterations=11)


def fake(seed: int = 0, **noise: float) -> dict[str, DeviceSection]:
    return {
        "simulated": DeviceSection.model_validate({"runtime": "fake", "noise": QUIET | noise, "seed": seed})
    }


@dataclass
class Told(Silent):
    """Keeps what was said."""

    said: list[str] = field(default_factory=list)

    def say(self, message: str) -> None:
        self.said.append(message)


class Residual(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(32, 16, 3, padding=1), nn.Conv2d(16, 32, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.second(self.first(x).relu())
        return y


def small(act: type[nn.Module] = nn.ReLU, side: int = 16, seed: int = 0, **stem: int) -> Model:
    """A stem, two blocks that may be passed over, and a head."""
    torch.manual_seed(seed)
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 4))
    network = nn.Sequential(nn.Conv2d(1, 32, 3, **stem), act(), nn.Sequential(Residual(), Residual()), *head)
    return Model(network.eval(), (torch.randn(1, 1, side, side),), source="small")


def test_what_a_device_takes_is_found_and_predicted(tmp_path: Path) -> None:
    """It takes a time for a multiply-accumulate and one for a node, and tells of no layer."""
    table = tabulate(small(), fake(), tmp_path / "t.json", FLOAT)
    assert LatencyTable.read(tmp_path / "t.json") == table
    sizes = layer_sizes(dissect(small(), "t"))
    table.require_layers({size.name: (size.inputs, size.outputs, size.macs) for size in sizes}, "t")
    assert 4 < len(table.probes) <= 7 and table.probes[0].ms == pytest.approx(table.whole_ms)
    assert table.error is not None and table.error < 0.02  # nodes are not the same for every layer
    assert {probe.ms for probe in table.probes} - {table.whole_ms}
    assert (table.precision, table.batch, table.device, table.runtime) == ("float", 1, "simulated", "fake")


def test_a_repeat_takes_up_what_there_is_and_measures_what_is_missing(tmp_path: Path) -> None:
    path, told = tmp_path / "t.json", Told()
    first = tabulate(small(), fake(launch_sd=0.05), path, replace(FLOAT, probes=2))
    again = tabulate(small(), fake(launch_sd=0.05), path, replace(FLOAT, probes=4), told)
    assert len(again.probes) > 3
    assert told.said == [f"simulated: timing {len(again.probes) - 3} networks in float; 3 are known"]
    assert [probe.ratios for probe in again.probes[:3]] == [probe.ratios for probe in first.probes]
    told.said.clear()
    assert tabulate(small(), fake(launch_sd=0.05), path, replace(FLOAT, probes=4), told) == again
    assert told.said == [f"simulated: timing 0 networks in float; {len(again.probes)} are known"]


def test_probes_of_another_device_network_or_precision_are_not_taken_up(tmp_path: Path) -> None:
    path, plan = tmp_path / "t.json", replace(FLOAT, probes=0)
    tabulate(small(), fake(), path, plan)
    torch.manual_seed(1)
    wider = Model(
        nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 3)), (torch.randn(1, 1, 8, 8),)
    )
    for model, device, other in (
        (small(), fake(seed=1), plan),
        (wider, fake(), plan),
        (small(), fake(), replace(plan, precision="int8")),
        (small(), fake(), replace(plan, batch=2)),
    ):
        told = Told()
        tabulate(model, device, path, other, told)
        assert "of another network, device, version or precision; measured anew" in told.said[0]
        assert "0 are known" in told.said[1]


def test_what_is_computed_decides_whether_networks_are_the_same_and_weights_do_not() -> None:
    told = computed_digest(small())
    assert computed_digest(small(seed=1)) == told
    others = [small(stride=2), small(nn.GELU), small(dilation=2), small(side=24)]
    assert len({told, *map(computed_digest, others)}) == 5


def test_a_table_tells_how_many_networks_it_is_to_have(tmp_path: Path) -> None:
    class Killed(Silent):
        def track(self, items: Iterable[Item], *told: Any, **more: Any) -> Iterator[Item]:
            yield from list(items)[:2]
            raise KeyboardInterrupt

    path, plan = tmp_path / "t.json", replace(FLOAT, probes=3)
    with pytest.raises(KeyboardInterrupt):
        tabulate(small(), fake(), path, plan, Killed())
    left = LatencyTable.read(path)
    assert len(left.probes) == 2 and left.wanted is not None and left.wanted > 2
    with pytest.raises(CompressError, match=f"holds 2 of {left.wanted} networks"):
        left.require_complete("t")
    fewer = tabulate(small(), fake(), path, replace(plan, probes=0))
    assert (fewer.probes, fewer.wanted) == (left.probes, 2) and LatencyTable.read(path) == fewer
    whole = tabulate(small(), fake(), path, plan)
    assert len(whole.probes) == whole.wanted == left.wanted


def test_what_cannot_be_made_smaller_is_refused(tmp_path: Path) -> None:
    alone = Model(nn.Sequential(nn.Flatten(), nn.Linear(16, 4)), (torch.randn(1, 1, 4, 4),), source="alone")
    with pytest.raises(CompressError, match="tabulate: alone: nothing can be removed: "):
        tabulate(alone, fake(), tmp_path / "t.json", FLOAT)
    with pytest.raises(
        CompressError, match="tabulate: small is graph, of which no layer can be made smaller"
    ):
        tabulate(replace(small(), form=Form.GRAPH), fake(), tmp_path / "t.json", FLOAT)


def test_random_widths_are_multiples_and_blocks_are_out_now_and_then() -> None:
    anatomy, draw = dissect(small(), "test").anatomy, random.Random(0)
    drawn = [drawn_kept(anatomy, draw, 8) for _ in range(50)]
    (wide,) = [unit.name for unit in anatomy.units if unit.size == 32]
    assert {len(one.get(wide, range(32))) for one in drawn} == {8, 16, 24, 32}
    out = ["2.0" in one for one in drawn]
    assert 0 < sum(out) < 25  # half of the blocks at most, and none in some
    gone = next(one for one in drawn if "2.0" in one and wide in one)
    widths, left = layer_widths(anatomy, gone), len(gone[wide])
    assert "2.0.first" not in widths and widths["0"] == (1, left) and widths["5"] == (left, 4)
    assert len(layer_widths(anatomy, {})) == len(anatomy.layers)


def test_a_real_device_tells_the_time_of_every_layer(tmp_path: Path) -> None:
    plan = TabulatePlan("int8", probes=1, rounds=2, iterations=11, warmup_s=0)
    devices = {"openvino:CPU": DeviceSection(runtime="openvino", device="CPU")}
    table = tabulate(small(), devices, tmp_path / "t.json", plan)
    timed = [layer.name for layer in table.layers if layer.measured_ms is not None]
    assert timed == [layer.name for layer in table.layers] and "2.0.first" in timed
    assert table.whole_ms > 0 and sum(layer.whole for layer in table.layers) > 0
    assert table.facts["capabilities"] and "openvino" in table.versions and table.settings["NUM_STREAMS"] == 1


def test_the_command_writes_a_table_and_its_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = write_recipe(tmp_path, targets=["onnxruntime"])
    monkeypatch.chdir(tmp_path)
    asked = ["tabulate", str(recipe), "-d", "fake", "--probes", "4"]
    done = CliRunner().invoke(cli, [*asked, "-o", "t.json"])
    assert done.exit_code == 0, done.output
    found = LatencyTable.read(tmp_path / "t.json")
    assert "slowest 4 of 4 layers" in done.output and f"over {len(found.probes)} networks" in done.output
    assert found.precision == "int8" and found.grid == Prepared(read_recipe(recipe), tmp_path).scheme.name
    page = Page((tmp_path / "t.html").read_text())
    assert page.classes("circle").count("point") == len(found.probes) > 2 and "stem.0" in page.text
    again = CliRunner().invoke(cli, [*asked, "-o", "t.json", "--json"])
    assert json.loads(again.stdout) == json.loads((tmp_path / "t.json").read_text())
    floats = CliRunner().invoke(cli, [*asked, "--float", "--probes", "0"])
    assert (
        floats.exit_code == 0 and LatencyTable.read(tmp_path / "small-fake-float.json").precision == "float"
    )


def test_a_recipe_decides_the_precision_unless_the_command_does(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, targets=["onnxruntime"], passes=[])
    asked = ["tabulate", str(recipe), "-d", "fake", "--probes", "0", "-o", str(tmp_path / "t.json")]
    for option, precision in (([], "float"), (["--int8"], "int8")):
        done = CliRunner().invoke(cli, [*asked, *option])
        assert done.exit_code == 0, done.output
        assert LatencyTable.read(tmp_path / "t.json").precision == precision


def test_a_network_without_a_recipe_needs_the_shape_of_its_input(tmp_path: Path) -> None:
    asked = ["tabulate", "edgepress.examples.digits.models:cnn", "-d", "fake", "--probes", "0"]
    refused = CliRunner().invoke(cli, asked)
    assert refused.exit_code == 2 and "input_shape" in refused.output
    done = CliRunner().invoke(cli, [*asked, "--input-shape", "1x32x32", "-o", str(tmp_path / "t.json")])
    assert done.exit_code == 0 and "not known: too few networks" in done.output
    assert LatencyTable.read(tmp_path / "t.json").precision == "int8"
    assert "too few networks were timed" in Page((tmp_path / "t.html").read_text()).text.lower()


def test_a_pass_is_given_the_table_of_the_recipes_first_device_once(tmp_path: Path) -> None:
    (tmp_path / "devices.yaml").write_text("devices:\n  sim: { runtime: fake }\n")
    recipe = read_recipe(write_recipe(tmp_path, targets=["sim", "onnxruntime"], passes=[], budgets={}))
    told = Told()
    prepared = Prepared(recipe, tmp_path, progress=told)
    data, model = prepared.read()
    table = prepared.context(data, Store(tmp_path / "store")).latency_table
    assert table is not None
    found = table(model)
    assert (found.device, found.precision) == ("sim", "float") and len(found.probes) > 8
    timing = [line for line in told.said if "timing" in line]
    assert table(model) == found and [line for line in told.said if "timing" in line] == timing
    quantized = replace(prepared, recipe=recipe.model_copy(update={"passes": (Quantize(),)}))
    assert quantized.tabulate_plan.precision == "int8"


def test_names_out_of_files_do_nothing_on_the_page(tmp_path: Path) -> None:
    table = tabulate(small(), fake(), tmp_path / "t.json", replace(FLOAT, probes=0))
    odd = "<script>alert(1)</script>"
    layers = (table.layers[0].model_copy(update={"name": odd, "type": odd}), *table.layers[1:])
    page = Page(table_html(table.model_copy(update={"network": odd, "device": odd, "layers": layers})))
    assert page.shape == Page(table_html(table)).shape and "script" not in {tag for tag, _ in page.tags}
