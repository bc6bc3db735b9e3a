"""What pruning_curve.py finds, all of it: latencies, comparisons and limits, as a record, tables and a curve."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pruning_comparison import Point, as_alike, compared, faster, mcnemar_per_seed, means
from pruning_engines import scores_of
from pruning_latency import timed
from pruning_methods import BASELINES, OURS, kept_plan
from pruning_pages import page, plot
from pruning_setting import BY_TABLE, ORIGINAL, Bench, Cell, Setting
from reporting import RESULTS, write

MOST_LOST = 1.0  # points


def written(bench: Bench, found: dict[Cell, dict[str, Any]], pairs: int, told: dict[str, Any]) -> list[str]:
    """Time all engines, write tables and curve; returns the limits that are broken."""
    setting, latencies = bench.setting, timed(bench, list(found), pairs)
    whole = found[ORIGINAL]
    rows = [
        {
            **row,
            "latency": latencies[cell.label],
            "params_share": row["params"] / whole["params"],
            "macs_share": row["macs"] / whole["macs"] if row["macs"] and whole["macs"] else None,
        }
        for cell, row in found.items()
    ]
    original, *points = [
        _point(setting, cell, latencies[cell.label], row["float"]["kl"]) for cell, row in found.items()
    ]
    ours = [m for m in OURS if any(p.method == m for p in points)]
    others = [m for m in BASELINES if any(p.method == m for p in points)]
    rivals = [(a, b) for a in ours for b in others] + [(ours[0], b) for b in ours[1:]]
    averaged = means(rows[1:], points, original)
    record = {
        "environment": told,
        "network": setting.name,
        "epochs": setting.epochs,
        "training": setting.network.training,
        "quick": setting.quick,
        "original": rows[0],
        "rows": rows[1:],
        "means": averaged,
        "at_equal_latency": [row for pair in rivals for row in compared(points, original, *pair)],
        "nearest": [row for pair in rivals for row in mcnemar_per_seed(points, *pair)],
        "latency_driven": faster(points, "gates-latency", "gates-macs"),
        "as_alike": as_alike(points, original, "gates-latency", "gates-macs")
        + as_alike(points, original, "solver", "gates-macs"),
        "predicted": _predicted(setting, found, latencies),
        "solver": faster(points, "solver", "gates-latency") + faster(points, "gates-latency", "solver"),
    }
    broken = [] if setting.quick else _broken(setting, averaged)
    name = f"pruning_curve_{setting.name}" + ("_quick" if setting.quick else "")
    paths = write(name, {**record, "broken": broken}, page(record, len(original.scores)))
    print(paths[1].read_text())
    print("written:", *paths, plot(rows[1:], averaged, whole, RESULTS / f"{name}.svg"))
    return broken


def _point(setting: Setting, cell: Cell, latency: dict[str, Any], kl: float) -> Point:
    logs = tuple(latency["logs"])
    return Point(
        cell.method,
        cell.target,
        cell.seed,
        latency["ratio"],
        logs,
        latency["group"],
        scores_of(setting, cell),
        kl,
    )


def _predicted(
    setting: Setting, found: dict[Cell, dict[str, Any]], latencies: dict[str, dict[str, Any]]
) -> list[dict[str, Any]]:
    """Latencies as the table has them, beside the measured ones, as shares of the original's."""
    return [
        {
            "method": cell.method,
            "target": cell.target,
            "seed": cell.seed,
            "predicted": kept_plan(setting.place(cell)).details["gates"]["series"][-1]["share"],
            "measured": latencies[cell.label]["ratio"],
            "ci95": latencies[cell.label]["ci95"],
        }
        for cell in found
        if cell.method in BY_TABLE
    ]


def _broken(setting: Setting, averaged: Sequence[dict[str, Any]]) -> list[str]:
    """Limits that none of our methods keeps, by the means over its seeds."""
    broken = []
    for limit in setting.network.limits:
        key = "latency" if limit.cost == "latency" else f"{limit.cost}_share"
        small = [row for row in averaged if row["method"] in OURS and row[key] <= limit.share]
        best = min(small, key=lambda row: row["lost"], default=None)
        if best is None:
            broken.append(f"none of our networks is at {limit.share:g} of the {limit.cost}")
        elif best["lost"] > MOST_LOST:
            broken.append(
                f"at {limit.share:g} of the {limit.cost} {best['lost']:.2f} points are lost, {MOST_LOST:g} may be"
            )
    return broken
