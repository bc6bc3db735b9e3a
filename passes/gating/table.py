"""The table of latencies that a recipe names for `gates`."""

from __future__ import annotations

import shlex
from pathlib import Path

from ...calibration.latency_table import LatencyTable
from ...errors import CompressError


def read_table(what: str, path: Path, batch: int) -> LatencyTable:
    """The table in a file; CompressError, which names the option of `what`, where there is none that can be used.

    batch: samples in one inference; 0: not known.
    """
    if not path.exists():
        raise CompressError(
            f"{what}: table: no such file: {path}; `compress tabulate RECIPE --device NAME -o"
            f" {shlex.quote(path.name)}` beside the recipe measures one"
        )
    table = LatencyTable.read(path)
    table.require_batch(batch, str(path))
    table.require_complete(str(path))
    return table
