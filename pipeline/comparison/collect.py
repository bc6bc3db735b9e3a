"""Comparison: many models on many devices, read from the records of runs and profiles alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ...calibration.measurement import MetricRecord
from ...targets import runtime_packages
from ...targets.measuring.latency import Latency, Speedup
from ..int8_share import int8_share_text
from ..profile.record import PROFILE_FILE, Profile
from ..report.read import load_run
from ..report.view import STATUS
from ..run_record import EngineRecord, RunRecord, TargetRecord
from .groups import MACHINE, NOT_TOLD, Facts, Group, batch_of, declared, differences, grouped
from .records import load_profile, record_names, records_in

COMPRESSED = "compressed"
RUN_ROLES = {"baseline": "float, f32", "default": "float, runtime default", COMPRESSED: "compressed"}
PROFILE_ROLE = "profile"
MODEL_KINDS = ("onnx", "onnx-float")
LATENCY_MODE, CORES = "latency", "logical cores"
NO_MACHINE = "a machine that is not told"
NO_LATENCY = {**STATUS, "run": "latency not measured", "missing": "not measured"}
VERSIONS = ("edgepress", "torch", "onnx")
"""Of the packages that are told, beside those of the targets."""


@dataclass(frozen=True)
class Cell:
    """One model on one device. status "missing": the record says nothing of this engine."""

    status: Literal["run", "built", "unavailable", "failed", "missing"]
    reason: str = ""
    engine: EngineRecord | None = None
    speedups: tuple[Speedup, ...] = ()

    @property
    def words(self) -> str:
        """What stands in the place of a latency that there is none of; `reason` says why."""
        return NO_LATENCY[self.status]

    @property
    def latency(self) -> Latency | None:
        """The latency, if there is one to compare."""
        found = self.engine.latency_ms if self.engine is not None else None
        return found if found is not None and math.isfinite(found.p50) and found.p50 > 0 else None

    @property
    def metric(self) -> MetricRecord | None:
        """The metric of this engine, if there is one to compare."""
        found = self.engine.metric if self.engine is not None else None
        return found if found is not None and math.isfinite(found.value) else None

    @property
    def engine_bytes(self) -> int | None:
        """Size of the engine's files; an engine that left none was not measured."""
        return (self.engine.engine_bytes or None) if self.engine is not None else None

    @property
    def int8_share(self) -> str:
        """Share of the MACs executed in INT8, or what is known of it."""
        return int8_share_text(self.engine)


@dataclass(frozen=True)
class Row:
    """One model: the source it comes from, its role there, and a cell for each device of that source."""

    source: str
    role: str
    cells: dict[str, Cell]

    @property
    def name(self) -> str:
        """A name that no other row has: sources have distinct names, and roles end them."""
        return f"{self.source}, {self.role}"

    def cell(self, device: str) -> Cell:
        """The cell of any device of the comparison."""
        return self.cells.get(device) or Cell("missing", "not in its record")


@dataclass(frozen=True)
class Source:
    """One record. digests: SHA-256 of each model file; data: what identifies the samples of its metric."""

    name: str
    kind: Literal["run", "profile"]
    digests: dict[str, str]
    date: str
    versions: dict[str, str]
    data: str
    conditions: dict[str, Facts]


@dataclass(frozen=True)
class Comparison:
    """All models on all devices. differences: what sets the groups apart, empty when there is one group."""

    sources: tuple[Source, ...]
    devices: tuple[str, ...]
    rows: tuple[Row, ...]
    groups: tuple[Group, ...]
    differences: tuple[str, ...]

    def rows_of(self, group: Group) -> list[Row]:
        """The rows that may be compared with each other."""
        return [row for row in self.rows if row.source in group.sources]


def load_comparison(folders: Sequence[Path]) -> Comparison:
    """Read the run.json and the profile.json of every folder; a record that is named twice is read once.

    CompressError names the first folder that holds neither, or the file that is no complete record.
    """
    paths = {path.resolve(): path for folder in folders for path in records_in(folder)}
    read = [
        _read_profile(name, load_profile(path))
        if path.name == PROFILE_FILE
        else _read_run(name, load_run(path))
        for name, path in zip(record_names(list(paths)), paths.values(), strict=True)
    ]
    rows = tuple(row for _, own in read for row in own)
    sources = tuple(source for source, _ in read)
    groups = grouped([(source.name, source.conditions) for source in sources])
    devices = tuple(dict.fromkeys(device for row in rows for device in row.cells))
    return Comparison(sources, devices, rows, groups, differences(groups))


def _read_run(name: str, record: RunRecord) -> tuple[Source, list[Row]]:
    rows = _rows(name, record.targets)
    taken = _taken(record.environment, batch_of(record.recipe))
    source = Source(
        name=name,
        kind="run",
        digests={a.path: a.sha256 for a in record.artefacts if a.kind in MODEL_KINDS},
        date=record.started_at,
        versions=_versions(record.environment),
        data=str(record.data.get("manifest", name)),
        conditions=_conditions(rows, {target.label: taken for target in record.targets}),
    )
    return source, rows


def _read_profile(name: str, record: Profile) -> tuple[Source, list[Row]]:
    cells, facts = {}, {}
    host = str(record.environment.get("cpu", NO_MACHINE))
    for device in record.devices:
        named = TargetRecord(
            device=device.device, runtime=device.runtime, version=device.version, status=device.status
        )
        label = device.label or named.label
        cells[label] = Cell(device.status, device.reason, device.engine)
        facts[label] = {
            **_taken(record.environment, str(record.batch)),
            "mode": str(device.options.get("mode", LATENCY_MODE)),
        }
        if device.machine not in ("", host):  # on another machine, whose cores are not told
            facts[label] |= {MACHINE: device.machine, CORES: NOT_TOLD}
    rows = [Row(name, PROFILE_ROLE, cells)]
    dates = [cell.latency.measured_at for cell in cells.values() if cell.latency is not None]
    source = Source(
        name=name,
        kind="profile",
        digests={record.source: record.sha256},
        date=min(dates, default=NOT_TOLD),
        versions=_versions(record.environment),
        data="",
        conditions=_conditions(rows, facts),
    )
    return source, rows


def _rows(name: str, targets: Sequence[TargetRecord]) -> list[Row]:
    """A row for each role that has an engine anywhere; the compressed model has one in any case."""
    return [
        Row(name, role, {target.label: _cell(target, key) for target in targets})
        for key, role in RUN_ROLES.items()
        if key == COMPRESSED or any(getattr(target, key) is not None for target in targets)
    ]


def _cell(target: TargetRecord, key: str) -> Cell:
    engine = getattr(target, key)
    if engine is None and (target.status == "run" or (target.status == "built" and key != COMPRESSED)):
        return Cell("missing", "no such engine in its record")
    return Cell(target.status, target.reason, engine, tuple(target.speedup) if key == COMPRESSED else ())


def _versions(environment: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(environment[name]) for name in (*VERSIONS, *runtime_packages()) if name in environment}


def _taken(environment: Mapping[str, Any], batch: str) -> Facts:
    """What a record says of all its devices. Machines are told apart by processor and cores."""
    return {
        MACHINE: str(environment.get("cpu", NO_MACHINE)),
        CORES: str(environment.get("logical cores", NOT_TOLD)),
        "batch": batch,
        "mode": LATENCY_MODE,
    }


def _conditions(rows: Sequence[Row], facts: Mapping[str, Facts]) -> dict[str, Facts]:
    """The facts of each timed device. Of several engines the last one speaks, which is the compressed one.

    The float baselines of a run differ from it in float precision alone, which is what their role says.
    """
    timed = {d: c.engine for row in rows for d, c in row.cells.items() if c.engine and c.latency}
    return {
        device: {**facts[device], **declared(engine.settings), "fed": _fed(engine)}
        for device, engine in timed.items()
    }


def _fed(engine: EngineRecord) -> str:
    """What decides a time that depends on the data: which inputs were fed in turn, where they were several."""
    latency = engine.latency_ms
    return "one input" if latency is None or latency.inputs == 1 else latency.inputs_origin
