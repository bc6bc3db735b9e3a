"""What `keep` names is left whole, what `only` names may lose something, and what names nothing is refused."""

from __future__ import annotations

import pytest
import torch
from attention_nets import siblings
from edgepress.errors import CompressError
from edgepress.model import Model
from edgepress.passes.channels.dissect import Rules, dissect
from edgepress.passes.channels.dissected import Dissected
from edgepress.passes.channels.kind import Kind
from edgepress.passes.channels.removal import removed
from edgepress.passes.channels.soundness import random_kept
from grouped_nets import grouped_model
from torch import Tensor, nn

BLOCKS = {"blocks.0", "blocks.1"}
STREAM = "blocks.1.conv3"
"""The unit of the skip connection, which the stem and every block make, is called by the last of them."""
HIDDEN = {"blocks.0.conv1", "blocks.1.conv1"}
GROUPED = {"blocks.0.conv2", "blocks.1.conv2"}
ALL = {STREAM, *HIDDEN, *GROUPED, "neck", *BLOCKS}


def dissected(**rules: tuple[str, ...]) -> Dissected:
    return dissect(grouped_model(), "gates", Rules(**rules))  # type: ignore[arg-type]


def units(**rules: tuple[str, ...]) -> set[str]:
    return {unit.name for unit in dissected(**rules).anatomy.units}


def shapes(module: nn.Module, name: str) -> list[torch.Size]:
    return [tensor.shape for tensor in module.get_submodule(name).state_dict().values()]


@pytest.mark.parametrize(
    ("keep", "whole", "left"),
    [
        ("blocks.0.conv2", ["blocks.0.conv2"], ALL - {"blocks.0.conv1", "blocks.0.conv2", "blocks.0"}),
        ("blocks.0.*", ["blocks.0"], {"blocks.1.conv1", "blocks.1.conv2", "neck", "blocks.1"}),
        ("blocks.0", ["blocks.0"], {"blocks.1.conv1", "blocks.1.conv2", "neck", "blocks.1"}),
        ("blocks", ["blocks"], {"neck"}),
        ("head", ["head"], ALL - {"neck"}),
        ("stem.1", ["stem"], ALL - {STREAM}),
    ],
)
def test_what_keep_names_loses_neither_inputs_nor_outputs_nor_a_block_around_it(
    keep: str, whole: list[str], left: set[str]
) -> None:
    found = dissected(keep=(keep,))
    assert {unit.name for unit in found.anatomy.units} == left
    module = grouped_model().module
    smaller = removed(module, found.removal(random_kept(found.anatomy.units, 0)))
    for name in whole:
        assert shapes(smaller, name) == shapes(module, name)


def test_all_may_be_kept() -> None:
    assert units(keep=("*",)) == set()


def test_the_reasons_say_what_of_a_unit_keep_names() -> None:
    reasons = {each.name: each.reason for each in dissected(keep=("head", "blocks.0.conv3")).anatomy.whole}
    assert reasons == {
        STREAM: "named by `keep`",
        "neck": "what reads it is named by `keep`",
        "blocks.0.conv2": "what reads it is named by `keep`",
        "blocks.0": "what lies in it is named by `keep`",
    }


@pytest.mark.parametrize("layer", ["attention", "attention.attention.query", "attention.output.dense"])
def test_of_an_attention_with_a_layer_that_keep_names_the_heads_stay(layer: str) -> None:
    rules = Rules(frozenset({Kind.HEADS}), keep=(f"layer.0.{layer}",))
    found = dissect(Model(siblings().eval(), (torch.randn(2, 7, 24),)), "gates", rules)
    assert [unit.name for unit in found.anatomy.units] == ["layer.1.attention.attention"]


@pytest.mark.parametrize(
    ("only", "left"),
    [
        ("blocks.0", {STREAM, "blocks.0.conv1", "blocks.0.conv2", "blocks.0"}),
        ("blocks.0.*", {STREAM, "blocks.0.conv1", "blocks.0.conv2"}),
        ("blocks", ALL - {"neck"}),
        ("blocks.0.conv1", {"blocks.0.conv1"}),
        ("stem.1", {STREAM}),
        ("head", set()),
    ],
)
def test_only_names_the_layers_that_make_channels_and_the_blocks(only: str, left: set[str]) -> None:
    assert units(only=(only,)) == left


def test_keep_wins() -> None:
    assert units(only=("blocks",), keep=("blocks.1",)) == {"blocks.0.conv1", "blocks.0.conv2", "blocks.0"}


def test_only_names_a_layer_that_reads_the_channels_that_it_makes() -> None:
    class Added(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.inner, self.head = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            y: Tensor = self.head(x + self.inner(x))
            return y

    found = dissect(Model(Added().eval(), (torch.randn(2, 4),)), "gates", Rules(only=("inner",)))
    assert len(found.anatomy.units) == 1


def test_a_layer_of_two_names_is_kept_by_either() -> None:
    model = grouped_model()
    model.module.again = model.module.neck
    rules = Rules(keep=("again",))
    assert "neck" not in {unit.name for unit in dissect(model, "gates", rules).anatomy.units}


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (
            {"keep": ("haed", "stem.*")},
            r"^gates: keep: 'haed' names no layer or block of this network; did you mean 'head'\?$",
        ),
        ({"only": ("blocks.[23].*",)}, r"^gates: only: 'blocks\.\[23\]\.\*' names no layer or block"),
        ({"keep": ("xyz",)}, r"of this network; its outermost parts are stem, blocks, neck, head$"),
    ],
)
def test_a_pattern_that_names_nothing_is_refused(rules: dict[str, tuple[str, ...]], message: str) -> None:
    with pytest.raises(CompressError, match=message):
        dissected(**rules)
