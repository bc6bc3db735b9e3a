"""A table of latencies: what it makes of probes, predicts, and refuses."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from edgepress.calibration.latency_fit import LayerSize, fit, held_out, latencies, mean_error
from edgepress.calibration.latency_table import UNKNOWN, LatencyTable, Probe, share
from edgepress.errors import CompressError
from torch import Tensor

SIZES = [
    LayerSize("stem", "Conv2d", 3, 32, 1000),
    LayerSize("depthwise", "Conv2d", 1, 32, 300),
    LayerSize("block", "Conv2d", 32, 128, 4000),
    LayerSize("head", "Linear", 128, 10, 200),
]
CONSTANT_MS, REST_MS = 0.01, 0.05
Widths = dict[str, tuple[int, int]]


def layer_ms(size: LayerSize, widths: tuple[int, int], step: int) -> float:
    """A device that computes channels in blocks: 1 ms for 10,000 multiply-accumulates, and a constant for the layer."""
    blocks = [
        math.ceil(n / step) / math.ceil(whole / step)
        for n, whole in zip(widths, (size.inputs, size.outputs), strict=True)
    ]
    return CONSTANT_MS + size.macs / 10_000 * blocks[0] * blocks[1]


def drawn(seed: int, step: int = 1, noise: float = 0.0, clock: bool = True) -> Probe:
    """A probe of random widths in multiples of 8; the first one is the whole network."""
    draw = random.Random(seed)
    a, b = (32, 128) if seed == 0 else (8 * draw.randint(1, 4), 8 * draw.randint(1, 16))
    widths: Widths = {"stem": (3, a), "depthwise": (1, a), "block": (a, b), "head": (b, 10)}
    if seed and draw.random() < 0.3:
        del widths["depthwise"]
    times = {size.name: layer_ms(size, widths[size.name], step) for size in SIZES if size.name in widths}
    ms = (sum(times.values()) + REST_MS) * math.exp(noise * draw.gauss(0, 1))
    slower = draw.uniform(1, 1.5)  # the runtime's own clock ran at another time than the launches
    told = {name: slower * one * math.exp(4 * noise * draw.gauss(0, 1)) for name, one in times.items()}
    return Probe(widths=widths, ratios=(1.0, 1.0), whole_ms=(1.0, 1.0), layer_ms=told if clock else {}, ms=ms)


def table_of(probes: list[Probe]) -> LatencyTable:
    judged, steps = held_out(SIZES, probes)
    fitted = fit(SIZES, probes, steps)
    facts: dict[str, Any] = {
        "key": "k", "network": "net", "precision": "int8", "grid": "", "batch": 1, "device": "d", "runtime": "r",
        "machine": "m", "facts": {}, "versions": {}, "options": {}, "settings": {}, "measured_at": "now",
    }  # fmt: skip
    return LatencyTable(
        **facts,
        steps=steps,
        whole_ms=1.0,
        rest_ms=fitted.rest_ms,
        layers=latencies(SIZES, fitted, probes[0]),
        probes=judged,
        error=mean_error(judged),
    )


WHOSE = "milliseconds are those of d (m) in int8, batch 1, measured now"


def given(widths: Widths, present: float = 1.0) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    return {n: (*(torch.tensor(float(w)) for w in two), torch.tensor(present)) for n, two in widths.items()}


@pytest.mark.parametrize("step", [1, 16])
def test_a_device_that_keeps_to_the_rule_is_predicted_exactly(step: int) -> None:
    table = table_of([drawn(seed, step) for seed in range(20)])
    assert table.steps == (step, step)
    # The rest is spread over the layers before it is told from them, which bends their times a little.
    assert table.error is not None and table.error < 0.02
    unseen = [drawn(seed, step) for seed in range(100, 130)]
    for probe in unseen:
        assert float(table.latency(given(probe.widths))) == pytest.approx(probe.ms, rel=0.08)


def test_noise_of_the_clock_and_of_launches_is_averaged_out() -> None:
    table = table_of([drawn(seed, 16, noise=0.02) for seed in range(25)])
    unseen = [drawn(seed, 16) for seed in range(100, 130)]
    errors = [abs(float(table.latency(given(p.widths))) / p.ms - 1) for p in unseen]
    assert sum(errors) / len(errors) < 0.05
    assert table.error is not None and 0 < table.error < 0.08


def test_the_error_is_of_networks_that_the_fit_did_not_see() -> None:
    probes = [drawn(seed, 16, noise=0.05) for seed in range(12)]
    judged, steps = held_out(SIZES, probes)
    others = [probe for index, probe in enumerate(probes) if index != 4]
    without = table_of(others)
    if without.steps == steps:
        assert judged[4].predicted_ms == pytest.approx(float(without.latency(given(probes[4].widths))))
    alone = fit(SIZES, others, steps)
    spelled = latencies(SIZES, alone, None)
    again = without.model_copy(update={"layers": spelled, "rest_ms": alone.rest_ms, "steps": steps})
    assert judged[4].predicted_ms == pytest.approx(float(again.latency(given(probes[4].widths))))


def test_a_layer_that_is_gone_takes_its_fixed_cost_along() -> None:
    table = table_of([drawn(seed) for seed in range(20)])
    whole = drawn(0).widths
    (layer,) = [one for one in table.layers if one.name == "depthwise"]
    assert layer.fixed > 0
    without = {name: widths for name, widths in given(whole).items() if name != "depthwise"}
    closed = given(whole) | {"depthwise": (torch.tensor(1.0), torch.tensor(32.0), torch.tensor(0.0))}
    for smaller in (without, closed):
        assert float(table.latency(given(whole)) - table.latency(smaller)) == pytest.approx(layer.whole)
    assert float(table.latency({})) == pytest.approx(table.rest_ms)


def test_the_gradient_is_what_a_channel_is_worth_between_the_blocks_too() -> None:
    table = table_of([drawn(seed, 16) for seed in range(20)])
    widths = given({"stem": (3, 24), "depthwise": (1, 24), "block": (24, 72), "head": (72, 10)})
    assert float(table.latency(widths)) == float(
        table.latency(given({"stem": (3, 32), "depthwise": (1, 32), "block": (32, 80), "head": (80, 10)}))
    )  # 24 channels take as long as 32
    inputs, outputs, present = (each.clone().requires_grad_() for each in widths["block"])
    table.latency(widths | {"block": (inputs, outputs, present)}).backward()
    (layer,) = [one for one in table.layers if one.name == "block"]
    assert inputs.grad is not None and outputs.grad is not None and present.grad is not None
    assert float(inputs.grad) == pytest.approx((layer.both * 80 / 128 + layer.read) / 32)
    assert float(outputs.grad) == pytest.approx((layer.both * 32 / 32 + layer.made) / 128)
    assert float(present.grad) == pytest.approx(
        layer.fixed + layer.both * 80 / 128 + layer.read + layer.made * 80 / 128
    )


def test_many_widths_are_asked_for_at_once() -> None:
    table = table_of([drawn(seed) for seed in range(20)])
    made = torch.arange(0.0, 129.0, 8.0)
    found = table.latency({"block": (torch.tensor(32.0), made, torch.ones(()))})
    alone = [table.latency({"block": (torch.tensor(32.0), one, torch.ones(()))}) for one in made]
    assert torch.allclose(found, torch.stack(alone)) and found.shape == made.shape
    assert bool((found.diff() >= 0).all())


def test_a_sum_of_gates_that_is_off_by_a_rounding_is_no_block_more() -> None:
    width = torch.tensor([16.0, 16 + 1e-12, 17.0]).double()
    assert share(width, torch.tensor(64.0), 16).tolist() == pytest.approx([0.25, 0.25, 0.5])
    assert share(torch.tensor(UNKNOWN), torch.tensor(64.0), 16) == 1.0  # nothing that can be made smaller
    assert share(torch.tensor(0.0), torch.tensor(64.0), 16) == 0.0
    assert share(torch.tensor(5.0), torch.tensor(0.0), 16) == 1.0


def test_without_the_times_of_layers_they_share_what_whole_networks_tell() -> None:
    table = table_of([drawn(seed, clock=False) for seed in range(20)])
    unseen = [drawn(seed, clock=False) for seed in range(100, 130)]
    assert all(layer.measured_ms is None for layer in table.layers)
    for probe in unseen:  # the rule of this device is of that form
        assert float(table.latency(given(probe.widths))) == pytest.approx(probe.ms, rel=1e-6)


def test_few_probes_make_a_table_without_an_error() -> None:
    for count in (1, 2, 3):
        table = table_of([drawn(seed) for seed in range(count)])
        assert table.error is None and table.steps == (1, 1)
        assert float(table.latency(given(drawn(0).widths))) == pytest.approx(drawn(0).ms, rel=0.2)
    assert table_of([drawn(seed) for seed in range(4)]).error is not None


def test_a_file_holds_a_table_and_nothing_else_is_read(tmp_path: Path) -> None:
    table, path = table_of([drawn(seed) for seed in range(5)]), tmp_path / "table.json"
    path.write_text(table.model_dump_json())
    assert LatencyTable.read(path) == table
    told = json.loads(table.model_dump_json())
    free = [one | dict.fromkeys(("fixed", "both", "read", "made"), 0) for one in told["layers"]]
    cases = {
        "not JSON": (b"{", "no table of latencies: "),
        "a list": (b"[]", "it has no schema_version"),
        "deep": (b"[" * 100_000, "no table of latencies: "),
        "of the future": (json.dumps({**told, "schema_version": 9}).encode(), "schema_version is 9"),
        "without layers": (
            json.dumps({k: v for k, v in told.items() if k != "layers"}).encode(),
            "layers: Field",
        ),
        "negative": (json.dumps({**told, "rest_ms": -1}).encode(), "rest_ms: "),
        "no number": (json.dumps({**told, "whole_ms": "NaN"}).encode(), "whole_ms: "),
        "an error of no number": (json.dumps({**told, "error": "NaN"}).encode(), "error: "),
        "NaN": (json.dumps({**told, "rest_ms": float("nan")}).encode(), "no table of latencies: "),
        "takes no time": (json.dumps({**told, "whole_ms": 0}).encode(), "whole_ms: "),
        "layers take no time": (
            json.dumps({**told, "rest_ms": 0, "layers": free}).encode(),
            "the whole: neither its layers nor what is left take any time",
        ),
        "a layer twice": (
            json.dumps({**told, "layers": told["layers"] + told["layers"][:1]}).encode(),
            f"the whole: layers: {told['layers'][0]['name']} is there twice",
        ),
        "no step": (json.dumps({**told, "steps": [0, 1]}).encode(), "steps.0: "),
    }
    for content, words in cases.values():
        path.write_bytes(content)
        with pytest.raises(CompressError, match="compress tabulate") as caught:
            LatencyTable.read(path)
        assert str(path) in str(caught.value) and words in str(caught.value)
    with pytest.raises(CompressError, match="cannot be read: No such file"):
        LatencyTable.read(tmp_path / "none.json")


def test_a_table_of_another_network_is_refused_by_the_layers_that_differ() -> None:
    table = table_of([drawn(seed) for seed in range(5)])
    own = {size.name: (size.inputs, size.outputs, size.macs) for size in SIZES}
    table.require_layers(own, "t.json")
    table.require_layers(
        own | {"block": (0, 0, 4000)}, "t.json"
    )  # an attention whose heads nobody looked for
    table.require_layers(own | {"block": (32, 128, 0)}, "t.json")  # what cannot be counted
    with pytest.raises(CompressError) as caught:
        table.require_layers(
            {"stem": (3, 64, 2000), "depthwise": (1, 32, 300), "neck": (32, 128, 1), "head": (128, 10, 200)},
            "t.json",
        )
    assert str(caught.value) == (
        "t.json: measured of another network: stem is 3 -> 32 in it and 3 -> 64 here, neck is not in it, its block is"
        " not here; measure one of this network by `compress tabulate`"
    )
    with pytest.raises(CompressError, match="measured of another network: neck is not in it"):
        table.latency(given({"neck": (1, 1)}))


def test_a_table_of_another_input_size_or_batch_is_refused() -> None:
    table = table_of([drawn(seed) for seed in range(5)])
    smaller = {size.name: (size.inputs, size.outputs, size.macs // 4) for size in SIZES}
    with pytest.raises(CompressError) as caught:
        table.require_layers(smaller, "t.json")
    assert "stem has 1,000 multiply-accumulates in it and 250 here, " in str(caught.value)
    table.require_batch(1, "t.json")
    table.require_batch(0, "t.json")
    with pytest.raises(CompressError) as caught:
        table.require_batch(8, "t.json")
    assert str(caught.value) == (
        "t.json: measured with batch 1, and the recipe's measure.batch is 8; write batch: 1 there, or measure a table"
        " by `compress tabulate` of the recipe, which takes its batch"
    )


def test_a_table_that_was_broken_off_is_refused(tmp_path: Path) -> None:
    table = table_of([drawn(seed) for seed in range(3)])
    table.require_complete("t.json")  # one of before that was told
    (tmp_path / "t.json").write_text(table.model_copy(update={"wanted": 25}).model_dump_json())
    with pytest.raises(CompressError) as caught:
        LatencyTable.read(tmp_path / "t.json").require_complete("t.json")
    assert str(caught.value) == ("t.json: holds 3 of 25 networks; run `compress tabulate` again, it goes on")
    table.model_copy(update={"wanted": 3}).require_complete("t.json")


def test_what_a_table_was_measured_of_and_how_well_it_predicts_is_told() -> None:
    table = table_of([drawn(seed) for seed in range(3)])
    unknown = f"{WHOSE}; a table predicts them, whose error is not known"
    assert table.error_note == unknown
    told = table.model_copy(update={"error": 0.0171}).error_note
    assert told == unknown.replace("not known", "1.7 % over 3 networks")
    assert table.measured_otherwise("", {}, "t.json") == []
    assert table.measured_otherwise("int8", {"other": "n", "d": "m"}, "t.json") == []
    assert table.measured_otherwise("int8", {"d": ""}, "t.json") == []  # over SSH, where nobody asked
    [precision] = table.measured_otherwise("float", {"d": "m"}, "t.json")
    assert precision.startswith("t.json: latencies of int8, and this recipe ends in float, ")
    for machines, words in (({"other": "m", "far": ""}, "other (m), far"), ({"d": "n"}, "d (n)")):
        [place] = table.measured_otherwise("int8", machines, "t.json")
        assert place == (
            f"t.json: measured on d (m), and this recipe's targets are {words}, where savings may differ"
        )
