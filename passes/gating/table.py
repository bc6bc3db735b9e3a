"""The table of latencies that a recipe names for `gates`."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from ...calibration.latency_table import LatencyTable
from ...errors import CompressError


def read_table(what: str, path: Path, batch: int) -> LatencyTable:
    """The table in a file; CompressError, which names the option of `what`, where there is none that can be used.

    batch: samples in one inference; 0: not known.
    """
    where = f"{what}: table: {path}"
    if not os.path.lexists(path):
        measures = f"`compress tabulate RECIPE --device NAME -o {shlex.quote(str(path))}` measures one"
        raise CompressError(f"{where}: there is no such file; {measures}")
    try:
        table = LatencyTable.read(path)
    except CompressError as error:
        raise CompressError(f"{what}: table: {error}") from error
    table.require_batch(batch, where)
    table.require_complete(where)
    return table
