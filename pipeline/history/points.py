"""History: what the runs of each commit measured, in a file of JSON lines that is only ever added to."""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Iterator, Sequence
from datetime import UTC
from io import FileIO
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AwareDatetime,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from ...errors import CompressError
from ...record import Measured, Record, require_schema
from ...writing import writing
from ..record_file import NotARecordError, parsed, told
from ..run_files import shipped
from ..run_record import RunRecord

try:
    import fcntl
except ImportError:  # Windows: two processes that append at once are then the user's own care
    fcntl = None  # type: ignore[assignment]

SCHEMA_VERSION = 1

Measure = Literal["latency_ms", "bytes", "metric"]


def _encodable(text: str) -> str:
    text.encode()
    return text


Text = Annotated[str, AfterValidator(_encodable)]
"""A lone surrogate, out of a file name that is no UTF-8, could not be written."""


Number = Annotated[Measured, Field(allow_inf_nan=False)]


class Point(Record):
    """One number of one model at one commit: a line of the file."""

    schema_version: int = SCHEMA_VERSION
    at: Annotated[AwareDatetime, AfterValidator(lambda time: time.astimezone(UTC))]
    """When the run started."""
    commit: Text
    model: Text
    device: Text
    """Device as budgets name it (openvino:CPU); "" for the exported file itself."""
    measure: Measure
    unit: Text
    """The metric's name; of a latency "ms", of a size "B"."""
    value: Number
    ci95: tuple[Number, Number] | None = None
    """Null where the value is exact, or its interval is not known."""
    source: Text
    machine: Text

    @field_validator("value")
    @classmethod
    def _positive(cls, value: float, info: ValidationInfo) -> float:
        measure = info.data.get("measure", "metric")
        if measure != "metric" and value <= 0:
            raise ValueError(f"{measure} must be above 0")
        return value

    @property
    def series(self) -> tuple[str, str, str, str]:
        """What the numbers of one series share; another metric is another series."""
        return self.model, self.device, self.measure, self.unit


# -- from a run


def points_of_run(record: RunRecord, commit: str, source: str = "") -> list[Point]:
    """Latency and metric of each device that ran, metric and bytes of the exported model.

    A latency that was not measured in this run is left out: `untimed` says which. CompressError when the record
    holds values that a history cannot.
    """
    cpu = record.environment.get("cpu")
    shared = {
        "at": record.started_at,
        "commit": commit,
        "model": record.name,
        "source": source,
        "machine": cpu if isinstance(cpu, str) else "",
    }
    try:
        return [Point.model_validate({**shared, **measured}) for measured in _measured(record)]
    except ValidationError as error:
        raise CompressError(f"{source or record.name}: no point of a history: {told(error)}") from error


def untimed(record: RunRecord) -> list[str]:
    """Why a device of the run adds no latency, one sentence a device."""
    told = []
    for target in record.targets:
        label = target.label
        latency = target.compressed.latency_ms if target.compressed is not None else None
        if target.status != "run":
            told.append(f"{label}: {target.status}, not run")
        elif latency is None or not math.isfinite(latency.p50):
            told.append(f"{label}: not timed")
        elif latency.cached:
            told.append(f"{label}: not timed anew since {latency.measured_at}; compress run --remeasure does")
    return told


def _measured(record: RunRecord) -> Iterator[dict[str, Any]]:
    for target in record.targets:
        engine = target.compressed
        if target.status != "run" or engine is None:
            continue
        latency, metric = engine.latency_ms, engine.metric
        if latency is not None and not latency.cached:
            yield from _number(target.label, "latency_ms", "ms", latency.p50, latency.ci95)
        if metric is not None:
            yield from _number(target.label, "metric", metric.name, metric.value, metric.ci95)
    if record.steps:
        last = record.steps[-1].metric
        yield from _number("", "metric", last.name, last.value, last.ci95)
    file = shipped(record.artefacts)
    if file is not None:
        yield from _number("", "bytes", "B", file[1], None)


def _number(
    device: str, measure: Measure, unit: str, value: float, ci95: tuple[float, float] | None
) -> Iterator[dict[str, Any]]:
    """One number, or nothing where it was not measured."""
    if math.isfinite(value):
        known = ci95 if ci95 is not None and all(map(math.isfinite, ci95)) else None
        yield {"device": device, "measure": measure, "unit": unit, "value": value, "ci95": known}


# -- the file


def read(path: Path) -> list[Point]:
    """Every point of the file, in its order; CompressError that names the first line which is none."""
    try:
        with path.open("rb", buffering=0) as file:
            _lock(file, shared=True)
            return _points(path, file.readall())
    except FileNotFoundError as error:
        raise CompressError(f"{path}: there is no such file; compress history add RUN starts one") from error


def append(path: Path, points: Sequence[Point]) -> list[Point]:
    """Add the points that the file does not hold yet, all or none of them; returns those that were added."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        return _appended(path, points)


def _appended(path: Path, points: Sequence[Point]) -> list[Point]:
    with path.open("a+b", buffering=0) as file:
        _lock(file)
        file.seek(0)
        held = {_key(point) for point in _points(path, file.readall())}
        fresh = {_key(point): point for point in points if _key(point) not in held}
        _write(file, "".join(f"{point.model_dump_json()}\n" for point in fresh.values()).encode())
    return list(fresh.values())


def _key(point: Point) -> tuple[Any, ...]:
    return *point.series, point.commit, point.at


def _lock(file: FileIO, shared: bool = False) -> None:
    """Wait for the file, on the file itself: the lock of a folder is held through a whole run, and is refused."""
    if fcntl is not None:
        fcntl.flock(file, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)


def _write(file: FileIO, content: bytes) -> None:
    """Append `content` in one write; what a full disk took of it is taken back."""
    size = os.fstat(file.fileno()).st_size
    try:
        if file.write(content) != len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), file.name)
        os.fsync(file.fileno())
    except BaseException:
        os.ftruncate(file.fileno(), size)
        raise


def _points(path: Path, content: bytes) -> list[Point]:
    *lines, rest = content.split(b"\n")
    points = [_point(f"{path}:{number}", line) for number, line in enumerate(lines, 1)]
    if rest:
        raise CompressError(
            f"{path}:{len(lines) + 1}: the last line has no end, what wrote it was killed; delete the line, or end it "
            "if it is whole, and add its run again"
        )
    return points


def _point(where: str, line: bytes) -> Point:
    try:
        content = parsed(line)
    except NotARecordError as error:
        why = str(error).removesuffix(" (line 1)")
        raise CompressError(f"{where}: damaged, {why}; mend or delete the line") from error
    require_schema(content, where, "a point of a history", SCHEMA_VERSION, "use the edgepress that wrote it")
    try:
        return Point.model_validate(content)
    except ValidationError as error:
        raise CompressError(f"{where}: not a point of a history: {told(error)}") from error
