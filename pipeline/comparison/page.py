"""comparison.html: many models on many devices as one page, and the same as one JSON document."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from pydantic import TypeAdapter

from ..pages.jinja import clean, page_environment
from ..pages.words import NOT_MEASURED
from ..report.view import Tile
from .collect import Comparison
from .fronts import benches
from .groups import MACHINE, NOT_TOLD

DAY = len("2026-01-31")
MACHINES = 3  # named in the tile; the groups name them all


def comparison_page(comparison: Comparison) -> str:
    """The whole comparison as one page that needs nothing else."""
    environment = page_environment(escape=True, finalize=clean)
    return environment.get_template("comparison.html").render(
        comparison=comparison,
        benches=benches(comparison),
        tiles=_tiles(comparison),
        title=f"{_counted(len(comparison.rows), 'model')} on {_counted(len(comparison.devices), 'device')}",
        NOT_TOLD=NOT_TOLD,
    )


def comparison_document(comparison: Comparison) -> dict[str, Any]:
    """The comparison as plain values, without the samples and layers that the records hold."""
    engine: dict[str, Any] = {"engine": {"layers": True, "latency_ms": {"samples_ms"}}}
    bulk = {"rows": {"__all__": {"cells": {"__all__": engine}}}}
    document: dict[str, Any] = json.loads(TypeAdapter(Comparison).dump_json(comparison, exclude=bulk))
    document["fronts"] = [
        {
            "group": bench.group.name,
            "device": bench.device,
            "measures": ["latency p50", front.measure],
            "ground": front.ground,
            "members": [{"row": m.row.name, "standing": m.kind, "why": m.words} for m in front.members],
        }
        for bench in benches(comparison)
        for front in bench.fronts
    ]
    return document


def _tiles(comparison: Comparison) -> list[Tile]:
    """How many models, on how many devices, where and when."""
    kinds = Counter(source.kind for source in comparison.sources)
    told = " and ".join(_counted(count, kind) for kind, count in kinds.items())
    timed = {d for row in comparison.rows for d, cell in row.cells.items() if cell.latency is not None}
    facts = [facts for group in comparison.groups for facts in group.conditions.values()]
    machines = list(dict.fromkeys(each[MACHINE] for each in facts))
    latencies = [c.latency for row in comparison.rows for c in row.cells.values() if c.latency is not None]
    dates = sorted(latency.measured_at for latency in latencies)
    days = list(dict.fromkeys(date[:DAY] for date in dates))
    cached = sum(latency.cached for latency in latencies)
    return [
        Tile("models", f"{len(comparison.rows)}", f"from {told}"),
        Tile("devices", f"{len(comparison.devices)}", f"{len(timed)} of them timed"),
        Tile("machines", f"{len(machines)}", "; ".join(machines[:MACHINES]) or NOT_MEASURED),
        Tile(
            "measured",
            " to ".join(dict.fromkeys((days[0], days[-1]))) if days else "nothing",
            f"{len(latencies)} latencies" + (f", {cached} of them in an earlier run" if cached else ""),
        ),
    ]


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
