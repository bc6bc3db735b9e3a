"""The lines between this machine and a device's agent: JSON with a digest, so that a garbled one is never believed."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ...errors import CompressError
from ..base import Layer, TargetOptions
from ..device import DeviceFacts, Frozen
from ..machine import MachineState

PROTOCOL = 1
"""Raised when two versions would misunderstand each other; the form of `hello` never changes."""
MAX_LINE = 64 << 20
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
    try:
        told = json.loads(line.decode("ascii"))
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


def lines(read: Callable[[], bytes]) -> Iterator[bytes]:
    """Whole lines from what `read` brings, until it brings nothing; WireError when one is cut off or too long."""
    pending = bytearray()
    while chunk := read():
        start = len(pending)
        pending += chunk
        while (end := pending.find(b"\n", start)) >= 0:
            yield bytes(pending[: end + 1])
            del pending[: end + 1]
            start = 0
        if len(pending) > MAX_LINE:
            raise WireError(f"a line is longer than {MAX_LINE >> 20} MB: {_excerpt(pending)}")
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
    """What `packed` made; nothing is unpickled."""
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        return [file[f"arr_{i}"] for i in range(len(file.files))]


def options_of(told: Body) -> TargetOptions:
    """Options that came as JSON."""
    return TargetOptions(**{**told, "compute_capabilities": tuple(told["compute_capabilities"])})


def told_frozen(frozen: Frozen) -> Body:
    """A frozen engine as JSON; settings that JSON does not know are told as text, as the worker does."""
    settings = {
        key: value if isinstance(value, str | int | float | None) else str(value)
        for key, value in frozen.settings.items()
    }
    return {**asdict(frozen), "settings": settings}


def frozen_from(told: Body) -> Frozen:
    """A frozen engine that came as JSON."""
    layers = tuple(Layer(**{**layer, "onnx_nodes": tuple(layer["onnx_nodes"])}) for layer in told["layers"])
    return Frozen(**{**told, "layers": layers})


def facts_of(told: Body) -> DeviceFacts:
    """Facts that came as JSON."""
    return DeviceFacts(**{**told, "state": MachineState(**told["state"])})
