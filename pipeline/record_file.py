"""The JSON file of a record: written whole; read as data of strangers, until form, size and numbers were looked at."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ..errors import CompressError
from ..record import Record
from .files import write_atomically

MAX_BYTES = 256 << 20
"""Most bytes of one file: the largest record that was seen has 30 MB."""
MAX_DEPTH = 64
TOO_DEEP = "not valid JSON (nested too deeply)"
MAX_DIGITS = 19
"""Most digits of a whole number: a count of bytes or operations has 64 bits."""
SHOWN_ERRORS = 3


class NotARecordError(Exception):
    """What was read is no JSON that a record could have; the message says why, without a file."""


class _Endless:
    """A whole number with more digits than any count, which is not made: that alone can take minutes."""

    def __init__(self, digits: int) -> None:
        self.digits = digits


def write_record(path: Path, record: Record, only: set[str] | None = None) -> Path:
    """Write a record, complete or not at all, and return `path`. only: the fields to write, all by default."""
    write_atomically(path, record.model_dump_json(indent=1, include=only).encode() + b"\n")
    return path


def read_bytes(path: Path) -> bytes:
    """A file's content; CompressError when it cannot be read, is no file, or is larger than any record."""
    try:
        if not path.is_file():  # a pipe or a device would never end
            raise CompressError(f"{path}: is not a file; name the file or folder that edgepress wrote")
        if (size := path.stat().st_size) > MAX_BYTES:
            raise CompressError(f"{path}: has {size:,} bytes; no record is larger than {MAX_BYTES:,}")
        return path.read_bytes()
    except OSError as error:
        raise CompressError(f"{path}: cannot be read: {error.strerror or error}") from error


def parsed(content: bytes) -> Any:
    """The JSON value; NotARecordError for what is none, nests too deeply, or holds numbers or text that none has."""
    try:
        value = json.loads(content.decode("utf-8"), parse_int=_whole)
    except UnicodeDecodeError as error:
        raise NotARecordError(f"not valid JSON (not UTF-8, byte {error.start})") from error
    except json.JSONDecodeError as error:
        raise NotARecordError(f"not valid JSON (line {error.lineno})") from error
    except RecursionError as error:
        raise NotARecordError(TOO_DEEP) from error
    for problem in _problems(value):
        raise NotARecordError(problem)
    return value


def told(error: ValidationError) -> str:
    """The first of a record's wrong fields, each with where it is."""
    errors = error.errors(include_url=False, include_input=False)
    shown = [
        f"{'.'.join(map(str, e['loc'])) or 'the whole'}: {e['msg'].removeprefix('Value error, ')}"
        for e in errors[:SHOWN_ERRORS]
    ]
    more = len(errors) - len(shown)
    return "; ".join(shown) + (f"; and {more} more" if more else "")


def _whole(text: str) -> int | _Endless:
    digits = len(text.lstrip("-"))
    return int(text) if digits <= MAX_DIGITS else _Endless(digits)


def _problems(value: Any) -> Iterator[str]:
    """What no record holds, with the place of it. A stack instead of recursion, which a deep value would exhaust."""
    stack: list[tuple[tuple[Any, ...], Any]] = [((), value)]
    while stack:
        place, each = stack.pop()
        if len(place) > MAX_DEPTH:
            yield TOO_DEEP
        elif isinstance(each, dict):
            stack += [((*place, key), inner) for key, inner in each.items()]
            if any(not _encodable(key) for key in each):
                yield f"{_dotted(place)}: half a character (a lone surrogate) in a name of it"
        elif isinstance(each, list):
            stack += [((*place, index), inner) for index, inner in enumerate(each)]
        elif isinstance(each, _Endless):
            yield f"{_dotted(place)}: a whole number of {each.digits} digits"
        elif isinstance(each, str) and not _encodable(each):
            yield f"{_dotted(place)}: half a character (a lone surrogate)"


def _dotted(place: tuple[Any, ...]) -> str:
    return ".".join(map(str, place)) or "the whole"


def _encodable(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)
