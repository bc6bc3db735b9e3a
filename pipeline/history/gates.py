"""Points of a gate: what its candidate took on each device."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

from pydantic import ValidationError

from ...calibration.statistics import geometric_mean
from ...errors import CompressError
from ...record import require_schema
from ..gate.record import GATE_SCHEMA, DeviceGate, GateRecord
from ..record_file import NotARecordError, parsed, read_bytes, told
from .points import Point


def load_gate(folder: Path) -> GateRecord:
    """The record of a folder that `compress gate` wrote; CompressError when it cannot be read."""
    path = folder / "gate.json"
    try:
        content = parsed(read_bytes(path))
    except NotARecordError as error:
        raise CompressError(f"{path}: damaged, {error}; gate again") from error
    require_schema(content, str(path), "the record of a gate", GATE_SCHEMA, "gate again")
    try:
        return GateRecord.model_validate(content)
    except ValidationError as error:
        raise CompressError(f"{path}: not the record of a gate: {told(error)}; gate again") from error


def points_of_gate(record: GateRecord, commit: str, source: str = "") -> list[Point]:
    """Latency and engine size of the candidate on each device; its model is named as what it was read from."""
    try:
        return [point for device in record.devices for point in _of_device(record, device, commit, source)]
    except (
        ValueError,
        OverflowError,
    ) as error:  # of pydantic, of a logarithm, and of an interval without end
        raise CompressError(f"{source}: no point of a history: {str(error).splitlines()[0]}") from error


def _of_device(record: GateRecord, device: DeviceGate, commit: str, source: str) -> list[Point]:
    shared: dict[str, Any] = {
        "at": record.started_at,
        "commit": commit,
        "model": device.candidate.name,
        "device": device.label,
        "source": source,
        "machine": device.machine,
    }
    medians = [row.median_ms for row in device.latency.launches if row.side == "candidate"]
    size = Point.model_validate({**shared, "measure": "bytes", "unit": "B", "value": device.candidate.bytes})
    if len(medians) < 2:
        return [size]
    latency = {"value": median(medians), "ci95": geometric_mean(medians)[1]}
    return [Point.model_validate({**shared, "measure": "latency_ms", "unit": "ms", **latency}), size]
