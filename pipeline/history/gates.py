"""Points of a gate: what its candidate took on each device."""

from __future__ import annotations

from math import exp
from pathlib import Path
from statistics import median
from typing import Any

from pydantic import ValidationError

from ...errors import CompressError
from ...targets.latency import log_interval
from ..gate.record import DeviceGate, GateRecord
from .points import Point


def load_gate(folder: Path) -> GateRecord:
    """The record of a folder that `compress gate` wrote; CompressError when it cannot be read."""
    path = folder / "gate.json"
    try:
        return GateRecord.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise CompressError(
            f"{path}: not the record of a gate ({str(error).splitlines()[0]}); gate again"
        ) from error


def points_of_gate(record: GateRecord, commit: str, source: str = "") -> list[Point]:
    """Latency and engine size of the candidate on each device; its model is named as what it was read from."""
    return [point for device in record.devices for point in _of_device(record, device, commit, source)]


def _of_device(record: GateRecord, device: DeviceGate, commit: str, source: str) -> list[Point]:
    name = Path(device.candidate.source)
    shared: dict[str, Any] = {
        "at": record.started_at,
        "commit": commit or record.commit,
        "model": name.stem if name.suffix else name.name,
        "device": device.label,
        "source": source,
        "machine": device.machine,
    }
    medians = [row.median_ms for row in device.latency.launches if row.side == "candidate"]
    size = Point.model_validate(
        {**shared, "measure": "bytes", "unit": "B", "value": device.candidate.engine_bytes}
    )
    if len(medians) < 2:
        return [size]
    centre, half = log_interval(medians)
    latency = {"value": median(medians), "ci95": (exp(centre - half), exp(centre + half))}
    return [Point.model_validate({**shared, "measure": "latency_ms", "unit": "ms", **latency}), size]
