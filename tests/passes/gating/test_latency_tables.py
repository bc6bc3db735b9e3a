"""`gates` by a table that a file holds: which ones it takes, and what it notes of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from edgepress.calibration.latency_table import LatencyTable, LayerLatency
from edgepress.errors import CompressError
from edgepress.examples.digits.models import cnn, vit
from edgepress.model import Model
from edgepress.passes.channels.dissect import Rules, dissect
from edgepress.passes.channels.kind import Kind
from edgepress.passes.channels.units import gates_of
from edgepress.passes.gates import Gates
from edgepress.passes.gating.cost import LatencyCost
from edgepress.passes.gating.phases import Phases
from slim_job import context_in
from torch import nn


def model(network: nn.Module, side: int = 32) -> Model:
    return Model(network.eval(), (torch.zeros(1, 1, side, side),))


def table_of(measured: Model, **changes: Any) -> LatencyTable:
    """A table of a network that takes 1 ms a layer."""
    layers = dissect(measured, "test", Rules(kinds=frozenset(Kind))).anatomy.layers
    return LatencyTable(
        key="k", network="net", precision="int8", grid="", batch=1, device="openvino:CPU", runtime="openvino",
        machine="m", facts={}, versions={}, options={}, settings={}, measured_at="now", steps=(1, 1), whole_ms=9,
        rest_ms=0, probes=(),
        layers=tuple(
            LayerLatency(
                name=layer.name, type=layer.type, inputs=layer.inputs.size, outputs=layer.outputs.size,
                macs=round(sum(term.whole for term in layer.macs)), fixed=0, both=1, read=0, made=0,
            )
            for layer in layers
        ),
    ).model_copy(update=changes)  # fmt: skip


def notes_on(table: LatencyTable, pruned: Model, folder: Path, **told: Any) -> list[str]:
    """What the pass notes by the time that it knows what the network takes."""
    (folder / "t.json").write_text(table.model_dump_json())
    kinds = told.pop("kinds", list(Kind))
    options = Gates.model_validate({"cost": "latency", "table": folder / "t.json", "kinds": kinds})
    phases = Phases(options, pruned, replace(context_in(folder), **told))
    assert phases.cost.whole == pytest.approx(len(table.layers))
    return phases.notes


@pytest.mark.parametrize("kinds", [list(Kind), [Kind.CHANNELS]])
@pytest.mark.parametrize("network", [cnn, vit])
def test_a_table_of_the_network_is_taken_whatever_may_go(
    network: type[nn.Module], kinds: list[Kind], tmp_path: Path
) -> None:
    pruned = model(network())
    assert notes_on(table_of(pruned), pruned, tmp_path, kinds=kinds) == [
        "milliseconds are those of openvino:CPU (m) in int8, batch 1, measured now; a table predicts them, whose error"
        " is not known"
    ]


def test_the_notes_say_what_the_table_was_measured_of(tmp_path: Path) -> None:
    pruned, where = model(cnn()), tmp_path / "t.json"
    machines = {"openvino:CPU": "another"}
    notes = notes_on(table_of(pruned, error=0.0171), pruned, tmp_path, ends_in="float", machines=machines)
    assert [note.partition(", ")[0] for note in notes] == [
        f"{where}: latencies of int8",
        f"{where}: measured on openvino:CPU (m)",
        "milliseconds are those of openvino:CPU (m) in int8",
    ]


@pytest.mark.parametrize("network", [cnn, vit])
def test_every_unit_saves_something_and_the_more_the_more_of_it_is_closed(
    network: type[nn.Module], tmp_path: Path
) -> None:
    pruned = model(network())
    anatomy = dissect(pruned, "test", Rules(kinds=frozenset({Kind.CHANNELS, Kind.HEADS}))).anatomy
    cost = LatencyCost(anatomy, table_of(pruned).latency)
    for unit in anatomy.units:
        left = [float(cost.of(gates_of({unit.name: tuple(range(n))}, [unit]))) for n in range(unit.size + 1)]
        assert left == sorted(left) and left[0] < left[-1], unit.name


REFUSED: dict[str, tuple[int, dict[str, Any], str]] = {
    "of larger inputs": (64, {}, "measured of another network: .* multiply-accumulates in it and "),
    "of another batch": (32, {"batch": 8}, "measured with batch 8, and the recipe's measure.batch is 1"),
    "broken off": (32, {"wanted": 25}, "holds 0 of 25 networks; run `compress tabulate` again"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_table_that_tells_nothing_of_this_network_is_refused(case: str, tmp_path: Path) -> None:
    side, changes, words = REFUSED[case]
    with pytest.raises(CompressError, match=words):
        notes_on(table_of(model(cnn(), side), **changes), model(cnn()), tmp_path, batch=1)


def test_a_table_is_asked_for_before_any_work(tmp_path: Path) -> None:
    path = tmp_path / "tables" / "cpu.json"
    chosen = Gates.model_validate({"cost": "latency", "table": path})
    with pytest.raises(CompressError) as told:
        chosen.require_files(batch=1)
    assert str(told.value) == (
        f"gates: table: {path}: there is no such file; `compress tabulate RECIPE --device NAME -o {path}` measures one"
    )
    path.parent.mkdir()
    path.write_text("{}")
    with pytest.raises(CompressError, match=f"gates: table: {path}: not a table of latencies"):
        chosen.require_files(batch=1)
    path.write_text(table_of(model(cnn())).model_dump_json())
    chosen.require_files(batch=1)
    with pytest.raises(CompressError, match=f"gates: table: {path}: measured with batch 1, and the recipe's"):
        chosen.require_files(batch=8)
    Gates().require_files(batch=1)
