"""The schedule of tokens that a run found, as a file that a recipe of another run can name."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..files import write_atomically

SCHEDULE = "tokens.json"


def write_schedule(details: Sequence[dict[str, Any]], folder: Path) -> list[tuple[Path, str]]:
    """Write the schedule that the last pass of tokens left in its details; returns the file with its kind, or none."""
    found = [each["tokens"]["schedule"] for each in details if "tokens" in each]
    if not found:
        return []
    path = folder / SCHEDULE
    write_atomically(path, (json.dumps(found[-1], indent=1) + "\n").encode())
    return [(path, "token-schedule")]
