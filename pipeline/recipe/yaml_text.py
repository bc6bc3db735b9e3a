"""YAML as plain data that still knows where each key and value stood. Nothing in a file is ever evaluated."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from .problems import Location, Place, Problem, RecipeError, describe, dotted

MAX_BYTES = 1_000_000
MAX_NODES = 10_000  # with its aliases written out: what a YAML bomb multiplies
MAX_DEPTH = 32
MAX_DIGITS = 100


@dataclass(frozen=True)
class FileKind:
    """What a YAML file is expected to be, for messages. keys: some of its own; hint: where to get one."""

    name: str
    keys: str
    hint: str


RECIPE = FileKind("recipe", "keys such as model: and data:", "`compress init` writes a recipe to start from")


@dataclass
class Document:
    """A recipe as plain data, the places of its keys and values, and what was wrong already at this level.

    `bad` holds the locations already complained about, so that no second complaint follows from the first.
    """

    data: dict[str, Any] = field(default_factory=dict)
    keys: dict[Location, Place] = field(default_factory=dict)
    values: dict[Location, Place] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    bad: set[Location] = field(default_factory=set)

    def refuse(self, location: Location, message: str, at_key: bool = False, unsafe: bool = False) -> None:
        """Record that the value at `location` is wrong; with `at_key`, that its key is, in what holds it."""
        self.bad.add(location)
        subject = location[:-1] if at_key and isinstance(location[-1], str) else location
        self.problems.append(Problem(self.place(location, at_key), f"{dotted(subject)}{message}", unsafe))

    def place(self, location: Location, at_key: bool = False) -> Place:
        """Where `location` stands; for what is not in the file, where its nearest parent stands."""
        first, second = (self.keys, self.values) if at_key else (self.values, self.keys)
        while location:
            found = first.get(location) or second.get(location)
            if found:
                return found
            location, first, second = location[:-1], self.keys, self.values
        return self.values.get((), Place(1, 1))

    def is_bad(self, location: Location) -> bool:
        """Whether `location`, or something that holds it, was complained about."""
        return any(location[:end] in self.bad for end in range(len(location) + 1))


def recipe_text_of(path: Path, kind: FileKind = RECIPE) -> str:
    """The file's text as it stands, for the record of a run.

    Raises RecipeError for a file that is missing, unreadable, over 1 MB or not UTF-8.
    """
    if not path.is_file():
        what = f"is a folder, not a {kind.name} file" if path.is_dir() else "no such file"
        raise RecipeError(path, [Problem(None, f"{what}; {kind.hint}")])
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise RecipeError(path, [Problem(None, f"cannot be read: {error.strerror}")]) from None
    if len(content) > MAX_BYTES:
        raise RecipeError(path, [Problem(None, f"larger than 1 MB: this is not a {kind.name}")])
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start].decode("utf-8-sig", errors="replace")
        message = f"byte 0x{content[error.start]:02x} is not UTF-8: save the {kind.name} as UTF-8 text"
        raise RecipeError(path, [Problem(_place_after(before), message)]) from None


def parse(path: Path, kind: FileKind = RECIPE) -> Document:
    """Read a YAML file into plain data. Raises RecipeError for what makes the rest meaningless."""
    text = recipe_text_of(path, kind)
    try:
        root = yaml.compose(text, Loader=_BoundedLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Place(mark.line + 1, mark.column + 1) if mark else None
        raise RecipeError(path, [Problem(place, _syntax_message(error))]) from None
    except yaml.reader.ReaderError as error:
        message = f"the character {chr(error.character)!r} is not allowed in YAML"
        raise RecipeError(path, [Problem(_place_after(text[: error.position]), message)]) from None
    if root is None:
        message = f"the file is empty; {kind.hint}"
        raise RecipeError(path, [Problem(Place(1, 1), message)])
    document = Document()
    try:
        data = _Reader(document).read(root, ())
    except _TooLargeError as error:
        raise RecipeError(path, [Problem(_place_of(error.node), error.problem)]) from None
    if not isinstance(data, dict):
        if not document.is_bad(()):
            document.refuse((), f"expected a {kind.name} ({kind.keys}), got {describe(data)}")
        raise RecipeError(path, document.problems)
    document.data = data
    return document


def _place_after(text: str) -> Place:
    lines = text.split("\n")
    return Place(len(lines), len(lines[-1]) + 1)


def _place_of(node: yaml.Node) -> Place:
    return Place(node.start_mark.line + 1, node.start_mark.column + 1)


def _syntax_message(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or "not YAML"
    if "'\\t'" in problem:
        return "a tab cannot indent YAML: use spaces"
    if isinstance(error, _LimitError):
        return problem
    if problem == "but found another document":
        return "a second document starts here: a recipe is one document"
    context = f" ({error.context})" if error.context else ""
    return f"not valid YAML: {problem}{context}"


class _LimitError(yaml.MarkedYAMLError):
    """Raised while composing; `problem` is the whole message."""


class _TooLargeError(Exception):
    def __init__(self, node: yaml.Node, problem: str) -> None:
        super().__init__(problem)
        self.node, self.problem = node, problem


class _BoundedLoader(yaml.SafeLoader):
    """Stops at a depth and a size no recipe has, before PyYAML's recursion or the memory ends."""

    depth = 0
    nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.depth += 1
        self.nodes += 1
        if problem := _over_limit(self.depth, self.nodes):
            raise _LimitError(problem=problem, problem_mark=self.peek_event().start_mark)  # type: ignore[no-untyped-call]
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node


def _over_limit(depth: int, nodes: int) -> str | None:
    if depth > MAX_DEPTH:
        return f"nested deeper than {MAX_DEPTH} levels: this is not a recipe"
    if nodes > MAX_NODES:
        return f"more than {MAX_NODES} values, with aliases written out: this is not a recipe"
    return None


# YAML 1.1 reads 1e-3 as text; everyone who writes it means a number.
_BoundedLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789")
)

_TAG = "tag:yaml.org,2002:"
_CONSTRUCTOR = yaml.constructor.SafeConstructor()
_SCALARS: dict[str, Callable[[Any], Any]] = {
    f"{_TAG}null": lambda node: None,
    f"{_TAG}bool": _CONSTRUCTOR.construct_yaml_bool,
    f"{_TAG}int": _CONSTRUCTOR.construct_yaml_int,
    f"{_TAG}float": _CONSTRUCTOR.construct_yaml_float,
    # Text that YAML 1.1 would turn into dates, merges and defaults stays text.
    **{f"{_TAG}{name}": lambda node: node.value for name in ("str", "timestamp", "merge", "value")},
}


class _Reader:
    """Turns composed nodes into plain data, noting places and problems in `document`."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.nodes = 0

    def read(self, node: yaml.Node, location: Location) -> Any:
        self.nodes += 1
        if problem := _over_limit(len(location), self.nodes):
            raise _TooLargeError(node, problem)
        self.document.values[location] = _place_of(node)
        if isinstance(node, yaml.MappingNode) and node.tag == f"{_TAG}map":
            return self._mapping(node, location)
        if isinstance(node, yaml.SequenceNode) and node.tag == f"{_TAG}seq":
            return [self.read(item, (*location, i)) for i, item in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode) and node.tag in _SCALARS:
            return self._scalar(node, location)
        tag = node.tag.replace(_TAG, "!!")
        self.document.refuse(location, f"the tag {tag} is refused: a recipe is plain data, never code")
        return None

    def _mapping(self, node: yaml.MappingNode, location: Location) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not _is_key(key_node):
                problem = f"{dotted(location)}expected plain text as a key, got {_key_words(key_node)}"
                self.document.problems.append(Problem(_place_of(key_node), problem))
                continue
            key = (*location, key_node.value)
            if key_node.value in result:
                first = self.document.keys[key].line
                message = f"{dotted(key)}this key is given twice (first in line {first})"
                self.document.problems.append(Problem(_place_of(key_node), message))
                continue
            self.document.keys[key] = _place_of(key_node)
            result[key_node.value] = self.read(value_node, key)
        return result

    def _scalar(self, node: yaml.ScalarNode, location: Location) -> Any:
        if node.tag in (f"{_TAG}int", f"{_TAG}float") and (problem := _odd_number(node.value)):
            self.document.refuse(location, f"expected {problem}, got {describe(node.value)}")
            return None
        try:
            value = _SCALARS[node.tag](node)
        except (ValueError, KeyError, IndexError, OverflowError, yaml.YAMLError):
            expected = node.tag.removeprefix(_TAG)
            self.document.refuse(location, f"expected a value of type {expected}, got {describe(node.value)}")
            return None
        if isinstance(value, float) and not math.isfinite(value):
            self.document.refuse(location, f"expected a finite number, got {node.value}")
            return None
        if isinstance(value, int) and value.bit_length() > 64:
            self.document.refuse(location, "expected a number of at most 64 bits")
            return None
        if isinstance(value, str) and any("\ud800" <= c <= "\udfff" for c in value):
            self.document.refuse(location, "half a surrogate pair is not text")
            return None
        return value


def _odd_number(text: str) -> str | None:
    """What was expected in place of a number that nobody writes; YAML 1.1 reads 1:30 as 90, to any length."""
    if ":" in text:
        return "a plain number (or quotes around text with a colon)"
    return f"a number of at most {MAX_DIGITS} digits" if len(text) > MAX_DIGITS else None


def _is_key(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag in _SCALARS and node.value.isprintable()


def _key_words(node: yaml.Node) -> str:
    if isinstance(node, yaml.ScalarNode):
        return describe(node.value) if node.tag in _SCALARS else f"the tag {node.tag.replace(_TAG, '!!')}"
    return "a mapping" if isinstance(node, yaml.MappingNode) else "a list"
