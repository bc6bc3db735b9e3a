"""What a recipe may say, as Markdown for the documentation: read off the models, so that it cannot drift."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from .file import TARGET_OPTIONS
from .problems import expected_words, schema_at
from .sections import Recipe


def option_reference() -> str:
    """Every key of a recipe with its type, range, default and meaning: Markdown, one table a section."""
    from ...passes import PASSES

    schema = Recipe.model_json_schema()
    parts = ["# The recipe\n", schema["description"] + "\n", _table(schema, schema, ())]
    for name, section in _sections(schema, ()):
        parts += [f"## `{name}`\n", section.get("description", "") + "\n"]
        parts.append(_table(schema, section, tuple(name.split("."))))
    target = schema_at(schema, ("targets", 0))
    parts += ["## An entry of `targets`\n", f"{target['description']} Options stand below its name.\n"]
    parts.append(_table(schema, target, ("targets", 0), only=TARGET_OPTIONS))
    for name, pass_class in PASSES.items():
        options = pass_class.model_json_schema()
        parts += [f"## Pass `{name}`\n", options.get("description", "") + "\n", _table(options, options, ())]
        for inner, section in _sections(options, ()):
            parts += [f"### `{inner}` of `{name}`\n", section.get("description", "") + "\n"]
            parts.append(_table(options, section, tuple(inner.split("."))))
    return "\n".join(parts)


def _sections(schema: Mapping[str, Any], base: tuple[str, ...]) -> list[tuple[str, Mapping[str, Any]]]:
    """The sections below `base` with their dotted names, outer ones first."""
    found: list[tuple[str, Mapping[str, Any]]] = []
    for name in schema_at(schema, base)["properties"]:
        inner = schema_at(schema, (*base, name))
        if is_section(inner):
            found += [(".".join((*base, name)), inner), *_sections(schema, (*base, name))]
    return found


def is_section(schema: Mapping[str, Any]) -> bool:
    """Whether a value of this schema is written as keys of its own, not as one value."""
    return "properties" in schema and "expected" not in schema


def _table(
    root: Mapping[str, Any], section: Mapping[str, Any], base: tuple[str | int, ...], only: Any = None
) -> str:
    required = section.get("required", ())
    rows = ["| key | value | default | meaning |", "|---|---|---|---|"]
    for name in section["properties"] if only is None else only:
        option = schema_at(root, (*base, name))
        default = "required" if name in required else _default(option)
        words = "keys of its own, see below" if is_section(option) else value_words(root, (*base, name))
        cells = (f"`{name}`", words, default, option.get("description", ""))
        rows.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
    return "\n".join(rows) + "\n"


def value_words(root: Mapping[str, Any], location: tuple[str | int, ...]) -> str:
    """`a list of: a whole number, at least 1`: what may stand at `location`."""
    schema = schema_at(root, location)
    words = expected_words(schema) or "any value"
    if schema.get("type") == "array" and (item := schema_at(root, (*location, 0))):
        return words if "properties" in item else f"{words} of: {expected_words(item)}"
    if schema.get("type") == "object" and (value := schema_at(root, (*location, "*"))):
        return f"{words} with values: {expected_words(value)}"
    return words


def _default(option: Mapping[str, Any]) -> str:
    if is_section(option) or option.get("default") in (None, {}, [], ""):
        return ""
    return f"`{json.dumps(option['default'], ensure_ascii=False)}`"
