"""Pruned networks as files: what loads into the factory is the network that ran, bit for bit; and their tables."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from edgepress.form import Form
from edgepress.model import Model
from edgepress.passes.channels.dissect import dissect
from edgepress.passes.channels.removal import Removal, removed
from edgepress.passes.channels.soundness import random_kept
from edgepress.passes.distill import Distill
from edgepress.passes.quantize import Quantize
from edgepress.passes.tokens import Tokens
from edgepress.pipeline.ingest.model import ingest
from edgepress.pipeline.ingest.removals import KEY
from edgepress.pipeline.inspect.run import inspect_model
from edgepress.pipeline.packing.l2z_file import pack_file, unpack_file
from edgepress.pipeline.packing.pruned_file import write_pruned
from edgepress.pipeline.recipe.sections import ModelSection
from quantization_nets import context_of, samples
from safetensors import safe_open
from torch import nn

CONTEXT = context_of(samples(24, 1, 32, 32, classes=10))
NETWORKS = ("cnn", "vit")


def digits(network: str, weights: Path | None = None) -> Model:
    return ingest(
        ModelSection(
            source=f"edgepress.examples.digits.models:{network}",
            weights=weights or Path("examples/digits") / f"{network}.safetensors",
            input_shape=(1, 32, 32),
        ),
        folder=Path(__file__).parents[3],
    )


def by_distill(model: Model, depth: float = 1.0, width: float = 0.5, epochs: int = 0) -> Model:
    options = {"student": {"depth": depth, "width": width}, "weight_bits": "float", "float_epochs": epochs}
    read = Distill.model_validate_json(json.dumps(options), strict=True)
    return read.apply(model, CONTEXT).model


def at_random(model: Model, seed: int = 0) -> Model:
    """As trained gates leave it: about half of all channels and heads, and the first block passed over."""
    dissected = dissect(model, "test")
    kept = random_kept(dissected.anatomy.units, seed)
    removal = dissected.removal({name: left for name, left in kept.items() if left or name == "blocks.0"})
    return model.smaller(removed(model.module, removal), removal.to_json())


PRUNED: dict[str, Callable[[Model], Model]] = {
    "width and depth of a student": lambda model: by_distill(model, depth=0.5),
    "a trained student": lambda model: by_distill(model, depth=0.5, epochs=1),
    "channels, heads and blocks": at_random,
    "a student that was pruned": lambda model: at_random(by_distill(model, depth=0.5)),
    "what was pruned, as a student": lambda model: by_distill(at_random(model), width=0.7),
    "pruned, then trained": lambda model: at_random(model).successor(touched(model), Form.MODULES),
}


def touched(model: Model) -> nn.Module:
    module = at_random(model).module
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(1.01)
    return module


def assert_the_same(one: Model, other: Model) -> None:
    x = torch.randn(5, 1, 32, 32, generator=torch.Generator().manual_seed(3))
    assert torch.equal(one.run(x)[0], other.run(x)[0])
    mine, its = one.module.state_dict(), other.module.state_dict()
    assert list(mine) == list(its) and all(torch.equal(mine[name], its[name]) for name in mine)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("case", PRUNED)
def test_what_is_loaded_is_what_was_pruned(case: str, network: str, tmp_path: Path) -> None:
    whole = digits(network)
    small = PRUNED[case](whole)
    [(weights, _), _] = write_pruned([whole, small], tmp_path)
    loaded = digits(network, weights)
    assert_the_same(small, loaded)
    assert loaded.facts() == small.facts() and loaded.facts().params < 0.7 * whole.facts().params
    assert loaded.form is Form.MODULES and "pruned by" in loaded.source


@pytest.mark.parametrize("network", NETWORKS)
def test_what_was_loaded_is_pruned_again(network: str, tmp_path: Path) -> None:
    [(first, _), _] = write_pruned([at_random(digits(network))], tmp_path / "first")
    before = digits(network, first)
    again = by_distill(before)
    [(second, _), (table, _)] = write_pruned([before, again], tmp_path / "second")
    assert_the_same(again, digits(network, second))
    assert json.loads(table.read_text())["params"] == [before.facts().params, again.facts().params]


def test_the_same_network_is_the_same_file(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_pruned([at_random(digits("vit"))], tmp_path / name)
    for file in ("pruned.safetensors", "widths.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_other_sizes_of_the_same_training_lie_beside_it(tmp_path: Path) -> None:
    whole = digits("cnn")
    chosen, other = at_random(whole), at_random(whole, seed=1)
    files = write_pruned([whole, replace(chosen, siblings={"0.8": other})], tmp_path)
    assert [path.name for path, _ in files] == ["pruned.safetensors", "widths.json", "pruned-0.8.safetensors"]
    assert_the_same(digits("cnn", tmp_path / "pruned-0.8.safetensors"), other)


def test_the_last_network_of_modules_is_written(tmp_path: Path) -> None:
    whole = digits("cnn")
    small = by_distill(whole)
    options = {"ranges": "minmax", "equalization": "off", "sensitivity_samples": 0}
    quantized = Quantize.model_validate(options).apply(small, CONTEXT).model
    assert quantized.form is Form.INT8 and quantized.removals is None
    [(weights, _), _] = write_pruned([whole, small, quantized], tmp_path)
    assert_the_same(small, digits("cnn", weights))


def test_nothing_is_written_of_what_lost_nothing_or_has_no_factory(tmp_path: Path) -> None:
    whole = digits("cnn")
    of_a_file = by_distill(replace(whole, removals=None))
    assert of_a_file.facts().params < whole.facts().params
    for models in ([whole], [whole, whole.successor(whole.module, Form.MODULES)], [of_a_file]):
        assert write_pruned(models, tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_what_weights_are_multiplied_by_is_in_them_already(tmp_path: Path) -> None:
    whole = digits("vit")
    removal = Removal(factors={"blocks.0.attention.qkv.weight": 0.5}, skipped=("blocks.3",))
    small = whole.smaller(removed(whole.module, removal), removal.to_json())
    [(weights, _), _] = write_pruned([small], tmp_path)
    with safe_open(weights, "pt") as file:
        assert "factors" not in file.metadata()[KEY]
    assert_the_same(small, digits("vit", weights))


def test_tied_weights_stay_tied(tmp_path: Path) -> None:
    (tmp_path / "tied_network.py").write_text(
        "from torch import nn\n\ndef net():\n"
        "    net = nn.Sequential(nn.Linear(4, 32), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32), nn.Linear(32, 2))\n"
        "    net[3].weight = net[1].weight\n    return net\n"
    )
    section = ModelSection(source="tied_network:net", input_shape=(4,))
    whole = ingest(section, folder=tmp_path)
    half = list(range(0, 32, 2))
    tensors = {"0.weight": {0: half}, "0.bias": {0: half}, "4.weight": {1: half}, "3.bias": {0: half}}
    tensors |= {"1.weight": {0: half, 1: half}, "3.weight": {0: half, 1: half}, "1.bias": {0: half}}
    cut: dict[str, Any] = {"indices": [half], "attributes": {}}
    cut["tensors"] = {name: dict.fromkeys(map(str, dims), 0) for name, dims in tensors.items()}
    removal = Removal.from_json({"cut": cut, "skipped": [], "factors": {}, "children": {}})
    small = whole.smaller(removed(whole.module, removal), removal.to_json())
    [(weights, _), _] = write_pruned([small], tmp_path)
    loaded = ingest(section.model_copy(update={"weights": weights}), folder=tmp_path)
    assert loaded.module[3].weight is loaded.module[1].weight
    x = torch.randn(3, 4)
    assert torch.equal(loaded.run(x)[0], small.run(x)[0])


def test_the_table_says_what_each_layer_had_and_has(tmp_path: Path) -> None:
    whole = digits("cnn")
    [_, (path, _)] = write_pruned([whole, by_distill(whole, depth=0.5)], tmp_path)
    table = json.loads(path.read_text())
    assert table["schema_version"] == 1 and table["weights"] == "pruned.safetensors"
    assert table["network"] == whole.source and table["gone"] == ["blocks.2"]
    rows = {row["name"]: row for row in table["layers"]}
    assert rows["head"] == {
        "name": "head", "type": "Linear", "inputs": [96, 48], "outputs": [10, 10], "gone": False
    }  # fmt: skip
    assert rows["blocks.2.pointwise.0"]["gone"] and rows["blocks.2.pointwise.0"]["outputs"] == [64, 0]
    assert rows["blocks.3.pointwise.0"]["outputs"] == [96, 48]
    assert rows["blocks.3.pointwise.0"]["now"] == "blocks.2.pointwise.0"  # what is left is numbered anew
    assert len(path.read_text().splitlines()) == 9 + len(table["layers"])  # a layer a line


def test_packing_keeps_what_was_removed(tmp_path: Path) -> None:
    small = at_random(digits("vit"))
    [(weights, _), _] = write_pruned([small], tmp_path)
    packed, back = tmp_path / "small.l2z", tmp_path / "back.safetensors"
    packed.write_bytes(pack_file(weights))
    assert packed.stat().st_size < weights.stat().st_size
    assert_the_same(small, digits("vit", packed))
    unpack_file(packed, back)
    assert back.read_bytes() == weights.read_bytes()
    assert any(note.startswith("pruned by 1 pass:") for note in inspect_model(str(weights)).notes)


def test_inspecting_a_recipe_shows_the_smaller_network(tmp_path: Path) -> None:
    small = by_distill(digits("cnn"))
    [(weights, _), _] = write_pruned([small], tmp_path)
    section = ModelSection(
        source="edgepress.examples.digits.models:cnn", weights=weights, input_shape=(1, 32, 32)
    )
    found = inspect_model(section)
    assert found.params == small.facts().params
    assert {row.name for row in found.passes if not row.applies} == {"tokens"}  # it is no transformer


def test_a_pass_that_drops_tokens_leaves_the_file_of_what_was_pruned_before(tmp_path: Path) -> None:
    pruned = at_random(digits("vit"))
    fewer = Tokens().apply(pruned, CONTEXT).model
    weights, _ = (path for path, _ in write_pruned([pruned, fewer], tmp_path))
    again = digits("vit", weights)
    assert torch.equal(again.run(*pruned.example_inputs)[0], pruned.run(*pruned.example_inputs)[0])
