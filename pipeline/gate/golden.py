"""Golden files: the size and the outputs that a person accepted for a device, in the repository beside the code."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from ...errors import CompressError
from ...record import Count, Record, require_schema
from ...targets.measuring.device import DeviceFacts
from ...targets.measuring.digests import outputs_digest
from ...targets.measuring.feeds import FeedSequence
from ..devices.opened import folder_name
from ..record_file import NotARecordError, parsed, read_bytes, told, write_record
from .subjects import Subject

SCHEMA = 1
KEPT_VALUES = 4096
"""Outputs up to so many values are kept as numbers, so that a difference can be told in words."""

Outputs = Sequence["np.ndarray[Any, Any]"]


class Golden(Record):
    """What was accepted. inputs_sha256, outputs_sha256: of all inputs and outputs in order, with types and shapes."""

    schema_version: int = SCHEMA
    device: str
    machine: str
    runtime: str
    version: str | None
    accepted_at: str
    commit: str
    source: str
    bytes: Count
    inputs_sha256: str
    outputs_sha256: str
    outputs: list[list[float]] | None = None
    """Flat values of each output; None when there are too many, or some are no finite numbers."""

    def made_on(self, facts: DeviceFacts) -> bool:
        """Whether the bits of its outputs can be asked for again: the same processor and version of the runtime."""
        return (self.machine, self.runtime, self.version) == (facts.machine, facts.runtime, facts.version)

    @property
    def origin(self) -> str:
        """What was accepted and when."""
        return f"{self.source}, {self.commit[:10] or self.accepted_at}"


def golden_path(folder: Path, device: str) -> Path:
    """The golden file of a device; `:` and `/` of its name do not get into a path."""
    return folder / f"{folder_name(device)}.json"


def golden_of(
    device: str, facts: DeviceFacts, side: Subject, fed: FeedSequence, outputs: Outputs, commit: str = ""
) -> Golden:
    """What a side would be accepted as now. outputs: of each input in turn.

    CompressError for outputs that are no numbers, such as text.
    """
    if wrong := [array.dtype for array in outputs if array.dtype.kind in "OSU"]:
        raise CompressError(
            f"{side.path}: an output is of type {wrong[0]}; only numbers can be compared bit for bit"
        )
    return Golden(
        device=device,
        machine=facts.machine,
        runtime=facts.runtime,
        version=facts.version,
        accepted_at=datetime.now(UTC).isoformat(timespec="seconds"),
        commit=commit,
        source=side.name,
        bytes=side.bytes,
        inputs_sha256=fed.sha256,
        outputs_sha256=outputs_digest(outputs),
        outputs=kept(outputs),
    )


def read_golden(folder: Path, device: str, known: Sequence[FeedSequence]) -> Golden | None:
    """The golden file of a device, None where there is none; CompressError when it is damaged or of other inputs.

    known: inputs that it may be of.
    """
    path = golden_path(folder, device)
    if not path.exists():
        return None
    try:
        content = parsed(read_bytes(path))
    except NotARecordError as error:
        raise CompressError(f"{path}: not a golden file ({error}); accept it anew") from error
    require_schema(content, str(path), "a golden file", SCHEMA, "accept it anew")
    try:
        golden = Golden.model_validate(content)
    except ValidationError as error:
        raise CompressError(f"{path}: not a golden file: {told(error)}; accept it anew") from error
    if golden.device != device:
        raise CompressError(
            f"{path}: was accepted for the device {golden.device!r}, not {device!r}; rename one of them"
        )
    if golden.inputs_sha256 not in {fed.sha256 for fed in known}:
        raise CompressError(
            f"{path}: was accepted on other inputs: give the --samples, --batch, --seed, --inputs, --data and "
            "--input-shape that it was accepted with, or accept it anew"
        )
    return golden


def read_golden_anyway(folder: Path, device: str) -> Golden | None:
    """What is there of it, to be replaced; None where nothing can be read."""
    try:
        return Golden.model_validate(parsed(read_bytes(golden_path(folder, device))))
    except (CompressError, NotARecordError, ValidationError):
        return None


def write_golden(folder: Path, golden: Golden) -> Path:
    """Write a device's golden file, complete or not at all."""
    return write_record(golden_path(folder, golden.device), golden)


def kept(outputs: Outputs) -> list[list[float]] | None:
    """The values of outputs as a golden file keeps them."""
    if sum(array.size for array in outputs) > KEPT_VALUES or not finite(outputs):
        return None
    return [[float(value) for value in array.ravel()] for array in outputs]


def finite(outputs: Outputs) -> bool:
    """Whether every value is a number."""
    return all(bool(np.isfinite(array).all()) for array in outputs if array.dtype.kind == "f")


def difference(reference: Sequence[Sequence[float]] | None, outputs: Outputs) -> str:
    """How far outputs are from accepted values, in words."""
    if reference is None:
        return "the bits differ"
    if [len(one) for one in reference] != [array.size for array in outputs]:
        return "the shapes differ"
    a = np.concatenate([np.asarray(one, dtype=np.float64) for one in reference])
    b = np.concatenate([np.asarray(array, dtype=np.float64).ravel() for array in outputs])
    error, signal = float(np.abs(a - b).max(initial=0)), float(np.square(a).sum())
    noise = float(np.square(a - b).sum())
    sqnr = f", SQNR {10 * np.log10(signal / noise):.1f} dB" if noise and signal else ""
    return f"largest difference {error:.3g}{sqnr}"
