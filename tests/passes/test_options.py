"""Options have one default, wherever it is told, and setting one of a group moves no other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from edgepress.cli.listing import _described_pass
from edgepress.passes import PASSES
from edgepress.passes.base import Pass
from edgepress.passes.l2 import L2
from edgepress.pipeline.recipe.template import template
from pydantic import BaseModel


def groups(kind: type[BaseModel]) -> Iterator[tuple[str, BaseModel]]:
    for name, field in kind.model_fields.items():
        default = field.get_default(call_default_factory=True)
        if isinstance(default, BaseModel):
            yield name, default


def defaults(kind: type[Pass]) -> dict[str, Any]:
    """Every option of a pass by its dotted name, as the model itself has it."""
    found: dict[str, Any] = {}
    for name, value in kind().model_dump(mode="json").items():
        inner = dict(groups(kind)).get(name)
        found |= {f"{name}.{key}": v for key, v in value.items()} if inner is not None else {name: value}
    return found


def test_one_option_of_a_group_leaves_the_others_of_the_pass_alone() -> None:
    assert L2(training={"epochs": 3}).training.lr == L2().training.lr == 5e-3  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "default",
    [pytest.param(value, id=f"{name}.{group}") for name in PASSES for group, value in groups(PASSES[name])],
)
def test_a_group_that_is_set_in_part_has_the_defaults_of_the_pass(default: BaseModel) -> None:
    assert type(default)() == default


def test_passes_that_train_have_groups() -> None:
    assert {"distill", "l2"} <= {name for name in PASSES if "training" in dict(groups(PASSES[name]))}


@pytest.mark.parametrize("name", PASSES)
def test_the_listing_tells_the_defaults_that_the_pass_has(name: str) -> None:
    listed = _described_pass(name, PASSES[name].model_json_schema())["options"]
    told = {option["name"]: option["default"] for option in listed}
    assert told == json.loads(json.dumps(defaults(PASSES[name])))


@pytest.mark.parametrize("name", PASSES)
def test_the_template_tells_the_defaults_that_the_pass_has(name: str) -> None:
    lines = template().split(f"- {name}:\n")[1].splitlines()
    options = [line.strip().removeprefix("#") for line in lines if line.startswith("      #")]
    text = [line for line in options if not line.startswith(" ")]
    told = yaml.safe_load("\n".join(text[: len(PASSES[name].model_fields)]))
    assert PASSES[name](**told) == PASSES[name]()
    assert list(told) == list(PASSES[name].model_fields)
