"""A target's measurements in the store: its record and its engine files, reused with the date of their latencies."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from ..targets.base import Artefact
from .files import sha256_file
from .measure import Measured
from .run_files import path_inside
from .run_record import TargetRecord
from .store import Entry, Store


def store_target(store: Store, key: str, folder: Path, measured: Measured) -> None:
    """Keep a target's record; of its engine files, which lie in the run's `folder`, the digests."""
    files = [
        {"path": a.path.relative_to(folder).as_posix(), "kind": a.kind, "sha256": sha256_file(a.path)}
        for a in measured.artefacts
    ]
    store.put(key, Entry({"record": measured.record.model_dump(mode="json"), "artefacts": files}, {}))


def stored_target(store: Store, key: str, folder: Path) -> Measured | None:
    """The stored record, latencies marked as cached, if the engine files are still those it was made with."""
    entry = store.get(key)
    if entry is None:
        return None
    try:
        files = [(path_inside(folder, f["path"], str(store.folder)), f) for f in entry.values["artefacts"]]
        if any(not path.is_file() or sha256_file(path) != file["sha256"] for path, file in files):
            return None
        artefacts = [Artefact(path, str(file["kind"])) for path, file in files]
        record = TargetRecord.model_validate(entry.values["record"])
    except (LookupError, TypeError, ValidationError):
        return None  # of another form than is written here: measured anew
    for engine in (record.baseline, record.default, record.compressed, *record.between):
        if engine is not None and engine.latency_ms is not None:
            engine.latency_ms = engine.latency_ms.model_copy(update={"cached": True})
    return Measured(record, tuple(artefacts))
