"""The lines between this machine and a device's agent: JSON with a digest, so that a garbled one is never believed."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from ...errors import CompressError
from ...isolated import Limits
from ..arrays import read_arrays
from ..base import TargetOptions
from ..graphs.vnni import FULL
from ..measuring.device import DeviceFacts, Frozen

PROTOCOL = 2
"""Raised when two versions would misunderstand each other; the form of `hello` never changes."""
MAX_LINE = 64 << 20
MAX_REQUEST = 4 << 20
"""Bytes of a line to an agent: files come in chunks."""
MAX_VALUES = 2 << 20
"""JSON values in one line: a small line can be a large list of lists."""
MAX_DIGITS = 19
CHUNK = 1 << 18
"""Bytes of a file in one line: small, so that a slow connection still brings signs of life in time."""

Body = dict[str, Any]


class WireError(Exception):
    """What was read cannot be trusted, or nothing came; nothing else is read from there."""


@dataclass(frozen=True)
class Message:
    """One line. body None: a sign of life of whoever works on the request of this id."""

    id: int
    body: Body | None


def digest(content: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def encode(number: int, body: Mapping[str, Any]) -> bytes:
    """One line; CompressError when it would be longer than the other end reads."""
    text = _canonical(body)
    line = f'{{"id":{number},"sha256":"{digest(text.encode())}","body":{text}}}\n'.encode()
    if len(line) > MAX_LINE:
        raise CompressError(
            f"{len(line) >> 20} MB in one message, and {MAX_LINE >> 20} are allowed; use a smaller batch"
        )
    return line


def alive(number: int) -> bytes:
    """The line that says that request `number` is being worked on."""
    return f'{{"alive":{number}}}\n'.encode()


def decode(line: bytes) -> Message:
    """What a line says; WireError when it is not as `encode` or `alive` made it."""
    if sum(map(line.count, (b",", b"[", b"{"))) > MAX_VALUES:
        raise WireError(f"a line has more than {MAX_VALUES:,} values: {_excerpt(line)}")
    try:
        told = json.loads(
            line.decode("ascii"), parse_constant=_no_number, parse_int=_whole, parse_float=_real
        )
    except (ValueError, RecursionError) as error:
        raise WireError(f"a line is not JSON: {_excerpt(line)}") from error
    keys = set(told) if isinstance(told, dict) else set()
    if keys == {"alive"} and type(told["alive"]) is int:
        return Message(told["alive"], None)
    if keys != {"id", "sha256", "body"} or type(told["id"]) is not int or not isinstance(told["body"], dict):
        raise WireError(f"a line is no message: {_excerpt(line)}")
    if digest(_canonical(told["body"]).encode()) != told["sha256"]:
        raise WireError(f"a line does not have the digest that it names: {_excerpt(line)}")
    return Message(told["id"], told["body"])


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number")


def _whole(text: str) -> int:
    if len(text.lstrip("-")) > MAX_DIGITS:
        raise ValueError(f"a whole number of {len(text)} digits")
    return int(text)


def _real(text: str) -> float:
    if not isfinite(number := float(text)):
        raise ValueError(f"{text[:20]} is beyond all numbers")
    return number


def lines(read: Callable[[], bytes], longest: int = MAX_LINE) -> Iterator[bytes]:
    """Whole lines from what `read` brings, until it brings nothing; WireError when one is cut off or too long."""
    pending = bytearray()
    while chunk := read():
        start = len(pending)
        pending += chunk
        while (end := pending.find(b"\n", start)) >= 0:
            yield bytes(pending[: end + 1])
            del pending[: end + 1]
            start = 0
        if len(pending) > longest:
            raise WireError(f"a line is longer than {longest >> 20} MB: {_excerpt(pending)}")
    if pending:
        raise WireError(f"the connection ended in the middle of a line: {_excerpt(pending)}")


def _canonical(body: Mapping[str, Any]) -> str:
    return json.dumps(body, sort_keys=True, separators=(",", ":"))


def _excerpt(line: bytes | bytearray) -> str:
    """The start of a line, safe to print."""
    return ascii(bytes(line[:80]).decode("latin-1"))


def packed(arrays: Sequence[np.ndarray[Any, Any]]) -> bytes:
    """Arrays as an .npz file, in order."""
    file = io.BytesIO()
    np.savez(file, *arrays)
    return file.getvalue()


def unpacked(content: bytes) -> list[np.ndarray[Any, Any]]:
    """What `packed` made; ValueError for any other content."""
    arrays = read_arrays(io.BytesIO(content))
    return [arrays[f"arr_{i}"] for i in range(len(arrays))]


def options_of(told: Body) -> TargetOptions:
    """Options that came as JSON; ValueError for what no options are."""
    options: TargetOptions = TypeAdapter(TargetOptions).validate_python(told)
    return options


def limits_of(told: Body) -> Limits:
    """Limits that came as JSON; ValueError for what none are."""
    limits: Limits = TypeAdapter(Limits).validate_python(told)
    return limits


def told_frozen(frozen: Frozen) -> Body:
    """A frozen engine as JSON; settings that JSON does not know are told as text, as the worker does.

    What it is opened with, and where its files lie, is the client's own.
    """
    settings = {
        key: value if isinstance(value, str | int | float | None) else str(value)
        for key, value in frozen.settings.items()
    }
    layers = [layer.model_dump() for layer in frozen.layers]
    engine = {"path": frozen.path, "sha256": frozen.sha256, "bytes": frozen.bytes}
    return {**engine, "settings": settings, "layers": layers}


def frozen_from(told: Body) -> Frozen:
    """A frozen engine that came as JSON; ValueError for what no engine is, and for what only this end can say."""
    if own := sorted({"options", "artefacts"} & set(told)):
        raise ValueError(f"an engine that tells its {' and '.join(own)}")
    frozen: Frozen = TypeAdapter(Frozen).validate_python(told)
    if frozen.bytes < 0:
        raise ValueError("a size below 0")
    return frozen


def facts_of(told: Body) -> DeviceFacts:
    """Facts that came as JSON; ValueError for what no facts are."""
    facts: DeviceFacts = TypeAdapter(DeviceFacts).validate_python(told)
    if facts.weight_limit is not None and not 1 <= facts.weight_limit <= FULL:
        raise ValueError(f"INT8 weights of {facts.weight_limit}")
    return facts
