"""What a pass left in its details for the report, which may be of another shape than ours: that is not shown."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ...record import LARGEST
from ..pages.words import UNKNOWN


def rows_in(details: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    """The rows that lie under `key`; what is not a row is left out."""
    rows = details.get(key)
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def names_in(details: Mapping[str, Any], key: str) -> list[str]:
    """The names that lie under `key`; what is no text is left out."""
    names = details.get(key)
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []


def number_in(value: object) -> float | None:
    """A value as a number that bars and sums can be made of; None for all others."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if math.isfinite(value) and abs(value) <= LARGEST else None


def name_in(row: Mapping[str, Any], key: str) -> str:
    """A name of a row, "unknown" where it has none."""
    return UNKNOWN if row.get(key) is None else str(row[key])
