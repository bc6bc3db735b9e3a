"""The recipe that `compress init` writes: every option with its meaning, those not needed commented out."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from .file import TARGET_OPTIONS
from .problems import schema_at
from .reference import is_section, value_words
from .sections import Recipe

DIGITS_MODEL = "edgepress.examples.digits.models:cnn"
DIGITS_WEIGHTS = "package:edgepress.examples.digits/cnn.safetensors"
DIGITS_DATA = "edgepress.examples.digits.data:digits"

_WIDTH = 100
_HEAD = """\
# A recipe for `compress run`: a trained network, the devices, and the budget to keep.
# Paths are relative to this file. Lines that start with # are explanations, or options at their
# default: remove the # to set them. `compress run --dry-run` checks the file without running it.
"""
_PROMISED = ("metric_drop", "int8_share")  # the others bind a recipe to a machine, or to a network
# What to show for an option whose default says nothing of its form, and which has no example of its own.
_SUGGESTED: dict[str, Any] = {
    "name": "my-network",
    "model.args": {},
    "model.input_shape": [1, 32, 32],
    "data.split": {"train": 0.6, "calibration": 0.1, "validation": 0.1, "test": 0.2},
    "targets.compute_capabilities": ["SM86", "SM89"],
}


def template(model: str = DIGITS_MODEL, weights: str = DIGITS_WEIGHTS, data: str = DIGITS_DATA) -> str:
    """A commented recipe as YAML text; with no arguments, the digits example, which `read_recipe` accepts.

    model, weights, data: what `model.source`, `model.weights` (left out when empty) and `data.source` say.
    """
    chosen: dict[str, Any] = {
        "model.source": model,
        "data.source": data,
        "metric": "top1",
        "seed": 0,
    }
    if weights:
        chosen["model.weights"] = weights
    schema = Recipe.model_json_schema()
    chosen |= {f"budgets.{key}": _shown(schema, ("budgets", key)) for key in _PROMISED}
    lines = [_HEAD.rstrip("\n")]
    for name in Recipe.model_fields:
        lines += ["", *_option(schema, (name,), chosen)]
    return "\n".join(lines) + "\n"


def _option(schema: Mapping[str, Any], location: tuple[str, ...], chosen: Mapping[str, Any]) -> Iterator[str]:
    """The lines of one option: its meaning, then itself, commented out when it is not chosen."""
    option, name, dotted = schema_at(schema, location), location[-1], ".".join(location)
    indent = "  " * (len(location) - 1)
    if is_section(option):
        active = len(location) == 1 or any(key.startswith(f"{dotted}.") for key in chosen)
        yield from _comment(option.get("description", ""), indent)
        yield f"{indent}{'' if active else '#'}{name}:"
        for inner in option["properties"]:
            yield from _option(schema, (*location, inner), chosen)
    elif location == ("passes",):
        yield from _comment(option["description"], indent)
        yield from ("passes:", *_passes())
    elif location == ("targets",):
        yield from _comment(option["description"], indent)
        yield from ("targets:", "  - openvino:CPU", "  - onnxruntime", "  #- tensorrt:", *_target(schema))
    else:
        yield from _comment(_meaning(schema, location), indent)
        value = chosen[dotted] if dotted in chosen else _shown(schema, location)
        yield f"{indent}{'' if dotted in chosen else '#'}{name}: {_flow(value)}"


def _shown(schema: Mapping[str, Any], location: tuple[str, ...]) -> Any:
    """The value that shows the form of an option: its example, else its default."""
    option = schema_at(schema, location)
    if "examples" in option:
        return option["examples"][0]
    return _SUGGESTED.get(".".join(location), option.get("default"))


def _passes() -> Iterator[str]:
    """Every pass with its options at their defaults; only `quantize` is active."""
    from ...passes import PASSES

    for name, pass_class in PASSES.items():
        schema = pass_class.model_json_schema()
        yield from _comment(schema.get("description", "").split("\n\n")[0], "  ")
        yield f"  {'' if name == 'quantize' else '#'}- {name}:"
        for option, inner in schema["properties"].items():
            yield from _comment(_meaning(schema, (option,)), "      ")
            yield f"      #{option}: {_flow(inner.get('default'))}"


def _target(schema: Mapping[str, Any]) -> Iterator[str]:
    for name in TARGET_OPTIONS:
        option = schema_at(schema, ("targets", 0, name))
        yield from _comment(_meaning(schema, ("targets", 0, name)), "      ")
        yield f"      #{name}: {_flow(_SUGGESTED.get(f'targets.{name}', option.get('default')))}"


def _meaning(schema: Mapping[str, Any], location: tuple[str | int, ...]) -> str:
    """An option's description, with what it takes where that says more than "text"."""
    words = value_words(schema, location)
    plain = words.startswith(("text", "a path", "a mapping", "any"))
    description = str(schema_at(schema, location).get("description", ""))
    return description if plain else f"{description} Takes {words}."


def _comment(text: str, indent: str) -> Iterator[str]:
    for line in textwrap.wrap(" ".join(text.split()), _WIDTH - len(indent), break_on_hyphens=False):
        yield f"{indent}# {line}"


def _flow(value: Any) -> str:
    """`value` as YAML on one line, text quoted only where YAML would read it as something else."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{_flow(key)}: {_flow(inner)}' for key, inner in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_flow, value))}]"
    if isinstance(value, str) and _reads_back(value):
        return value
    return json.dumps(value, ensure_ascii=False)


def _reads_back(text: str) -> bool:
    try:
        return bool(yaml.safe_load(f"{{{text}: {text}}}") == {text: text})
    except yaml.YAMLError:
        return False
