"""`compress doctor`, `passes` and `targets`: what there is, and what of it works here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any

import click

from .output import common_options, console, print_json, quiet_stdout, say, table

Option = dict[str, Any]


@click.command()
@common_options
def doctor(as_json: bool) -> None:
    """Show every runtime's version, the devices it finds here, what it can build, and why not.

    \b
    Example:
      compress doctor
    """
    from ..targets.doctor import doctor as examine

    with quiet_stdout() if as_json else nullcontext():
        rows = examine()
    if as_json:
        print_json([asdict(row) for row in rows])
        return
    cells = [
        (
            r.runtime,
            r.version or "not installed",
            ", ".join(r.devices) or "none",
            r.unavailable or "yes",
            r.builds,
        )
        for r in rows
    ]
    console().print(table(("target", "version", "devices", "runs here", "builds"), cells))


@click.command()
@common_options
def passes(as_json: bool) -> None:
    """List the passes that a recipe may name, with every option, its default and its meaning.

    \b
    Example:
      compress passes
    """
    from ..passes import PASSES

    listed = [_described_pass(name, kind.model_json_schema()) for name, kind in PASSES.items()]
    if as_json:
        print_json(listed)
        return
    for entry in listed:
        say(f"{entry['name']}: {entry['description']}")
        _print_options(entry["options"])


@click.command()
@common_options
def targets(as_json: bool) -> None:
    """List the runtimes that a recipe may name, the INT8 grid of each, and the options of an entry.

    \b
    Example:
      compress targets
    """
    from ..pipeline.recipe.file import TARGET_OPTIONS
    from ..pipeline.recipe.sections import TargetSection
    from ..targets import TARGETS

    with quiet_stdout() if as_json else nullcontext():
        listed = [
            {
                "name": name,
                "version": t.version(),
                "activations": t.scheme.activations,
                "description": _first(t),
            }
            for name, t in TARGETS.items()
        ]
    options = _options(TargetSection.model_json_schema(), TARGET_OPTIONS)
    if as_json:
        print_json({"targets": listed, "options": options})
        return
    rows = [(t["name"], t["version"] or "not installed", t["activations"], t["description"]) for t in listed]
    console().print(table(("target", "version", "INT8 activations", "what it is"), rows))
    say("")
    say("Options of an entry of `targets`:")
    _print_options(options)


def _first(target: object) -> str:
    """The first line of a target module's docstring, without the name that it starts with."""
    return (target.__doc__ or "").strip().partition("\n")[0].partition(": ")[2]


def _described_pass(name: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    description = " ".join(str(schema.get("description", "")).split("\n\n")[0].split())
    return {
        "name": name,
        "description": description,
        "options": _options(schema, schema.get("properties", {})),
    }


def _options(schema: Mapping[str, Any], names: Iterable[str]) -> list[Option]:
    return [row for name in names for row in _described(schema, (name,))]


def _described(schema: Mapping[str, Any], location: tuple[str, ...]) -> list[Option]:
    """One option, or those of a section, named `training.epochs`."""
    from ..pipeline.recipe.problems import schema_at
    from ..pipeline.recipe.reference import is_section, value_words

    option = schema_at(schema, location)
    if is_section(option):
        return [row for inner in option["properties"] for row in _described(schema, (*location, inner))]
    return [
        {
            "name": ".".join(location),
            "takes": value_words(schema, location),
            "default": option.get("default"),
            "description": option.get("description", ""),
        }
    ]


def _print_options(options: list[Option]) -> None:
    import json

    rows = [(o["name"], o["takes"], json.dumps(o["default"]), o["description"]) for o in options]
    console().print(table(("option", "takes", "default", "meaning"), rows))
