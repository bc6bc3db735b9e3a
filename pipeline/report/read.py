"""A run that somebody kept: its record, read back from its folder."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from ...errors import CompressError
from ...record import require_schema
from ..record_file import NotARecordError, parsed, read_bytes, told
from ..run_files import require_own_files
from ..run_record import SCHEMA_VERSION, RunRecord


def load_run(folder: Path) -> RunRecord:
    """The record of a run folder (or of a run.json file), which tells the truth of the files that are there.

    CompressError when it is none, cannot be read, or a file is not the one it tells of; UnsafeInputError when one of
    its paths leaves the folder.
    """
    path = folder / "run.json" if folder.is_dir() else folder
    if not folder.exists():
        raise CompressError(f"{folder}: there is no such folder; name the folder that a run wrote")
    if not path.exists():
        raise CompressError(f"{folder}: not a run folder, it holds no run.json; name one that a run wrote")
    try:
        content = parsed(read_bytes(path))
    except NotARecordError as error:
        raise CompressError(f"{path}: damaged, {error}; run the recipe again") from error
    hint = "run the recipe again, or use the edgepress that wrote it"
    require_schema(content, str(path), "the record of a run", SCHEMA_VERSION, hint)
    try:
        record = RunRecord.model_validate(content)
    except ValidationError as error:
        raise CompressError(f"{path}: not a complete record: {told(error)}") from error
    require_own_files(path.parent, record)
    return record
