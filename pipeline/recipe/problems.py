"""What is wrong with a recipe, where, and in which words."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import CompressError, ExitCode

Location = tuple[str | int, ...]
"""Where a value is in the data: ("budgets", "latency", "openvino:CPU"), ("passes", 0)."""


@dataclass(frozen=True, order=True)
class Place:
    """A position in the file; lines and columns count from 1."""

    line: int
    column: int


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a recipe. `place` is None when it is about the file as a whole.

    unsafe: it would have run what no recipe may name.
    """

    place: Place | None
    message: str
    unsafe: bool = False


class RecipeError(CompressError):
    """Everything that is wrong with one recipe: `problems`, and as text one line each, in file order."""

    def __init__(self, path: Path, problems: Iterable[Problem]) -> None:
        self.path = path
        self.problems = tuple(sorted(problems, key=lambda p: (p.place or Place(0, 0), p.message)))
        if any(problem.unsafe for problem in self.problems):
            self.exit_code = ExitCode.UNSAFE_INPUT
        super().__init__("\n".join(self._line(problem) for problem in self.problems))

    def _line(self, problem: Problem) -> str:
        place = f":{problem.place.line}:{problem.place.column}" if problem.place else ""
        return f"{self.path}{place}: {problem.message}"


def dotted(location: Location) -> str:
    """`passes[0].quantize.ranges: `, the start of a message; empty for the root."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    text = text.removeprefix(".")
    return f"{text if len(text) <= 200 else text[:200] + '...'}: " if text else ""


def describe(value: object) -> str:
    """A value from a file in a few words, for the end of a message."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'openvino'?` for the closest of `known`, empty when none is close."""
    folded = {option.casefold(): option for option in known}
    close = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.6)
    return f"; did you mean {folded[close[0]]!r}?" if close else ""


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """`unknown key 'modle'; did you mean 'model'? (known: data, model)`."""
    options = list(known)
    listed = f" (known: {', '.join(options)})" if options else ""
    return f"unknown {what} {describe(name)}{did_you_mean(name, options)}{listed}"


def schema_at(schema: Mapping[str, Any], location: Location) -> Mapping[str, Any]:
    """The part of a pydantic JSON schema that describes `location`; empty where it says nothing."""
    current = _resolved(schema, schema)
    for part in location:
        inner = current.get("properties", {}).get(part) or (
            current.get("items") if isinstance(part, int) else current.get("additionalProperties")
        )
        if not isinstance(inner, Mapping):
            return {}
        current = _resolved(inner, schema)
    return current


def _resolved(part: Mapping[str, Any], root: Mapping[str, Any]) -> Mapping[str, Any]:
    """`part` without its reference or its null alternative, keeping what stands beside them."""
    for choice in part.get("anyOf", ()):
        if choice.get("type") != "null":
            return {**_resolved(choice, root), **{k: v for k, v in part.items() if k != "anyOf"}}
    if "$ref" in part:
        target = root["$defs"][part["$ref"].rpartition("/")[2]]
        return {**target, **{k: v for k, v in part.items() if k != "$ref"}}
    return part


_TYPES = {
    "array": "a list",
    "boolean": "true or false",
    "integer": "a whole number",
    "number": "a number",
    "object": "a mapping (key: value)",
    "string": "text",
}


def expected_words(schema: Mapping[str, Any]) -> str:
    """What a JSON schema allows: `a whole number, 18 to 20`, `'default' or 'f32'`; empty when anything."""
    if "expected" in schema:
        return str(schema["expected"])
    if "enum" in schema:
        options = [repr(option) for option in schema["enum"]]
        return " or ".join(options) if len(options) < 3 else f"one of {', '.join(options)}"
    if schema.get("format") == "path":
        return "a path"
    return ", ".join(filter(None, (_TYPES.get(schema.get("type", "")), _range_words(schema))))


_LIMITS = {
    "minimum": "at least",
    "exclusiveMinimum": "more than",
    "maximum": "at most",
    "exclusiveMaximum": "less than",
}


def _range_words(schema: Mapping[str, Any]) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        return f"{low:.15g} to {high:.15g}"
    return " and ".join(f"{word} {schema[key]:.15g}" for key, word in _LIMITS.items() if key in schema)


def explain(error: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    """A pydantic error in the words of this project: what was expected, what was found.

    error: one item of `ValidationError.errors()`; schema: the JSON schema of the value.
    """
    kind, context, value = error["type"], error.get("ctx", {}), error["input"]
    if kind == "missing":
        return "this key is required"
    if kind == "value_error":
        found = "" if isinstance(value, dict | list) else f", got {describe(value)}"
        return f"{context['error']}{found}"
    if kind in ("too_short", "too_long"):
        least, most = context.get("min_length"), context.get("max_length")
        limit = f"at least {least}" if kind == "too_short" else f"at most {most}"
        return f"expected {limit} in this list, got {context['actual_length']}"
    expected = expected_words(schema) or error["msg"].removeprefix("Input should be ")
    hint = did_you_mean(str(value), map(str, schema.get("enum", ())))
    return f"expected {expected}, got {describe(value)}{hint}"
