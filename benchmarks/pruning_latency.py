"""The latencies of pruning_curve.py: how much a baseline must cut for a target, and all engines timed in turns."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from math import exp
from pathlib import Path
from statistics import median
from typing import Any

from pruning_engines import built
from pruning_methods import BASELINES
from pruning_setting import ORIGINAL, Bench, Cell
from timing import Contender, measure_in_turns, measure_side_by_side

TOLERANCE = 0.03
"""How far from its target, relatively, the latency of a baseline may be; curves are read between their points."""
MOST_PROBES = 5
AT_ONCE = 12
"""Engines in a round of launches, all of which are in memory together with the original's."""
PROBED_IN = {
    "ranges": "minmax",
    "equalization": "off",
    "bias_correction": False,
    "softmax_sqnr_db": 200.0,
    "sensitivity_samples": 0,
}
"""Quickly, for which weights an engine holds is nothing to its speed. Attention stays in float, as it does in the
original: what a network that is not trained yet would need there, no trained one does."""


# -- baselines of a latency


def amounts_for(bench: Bench, method: str, targets: Sequence[float], search: bool) -> dict[float, float]:
    """How much a baseline is to keep for each target, a share of the original's latency; without `search` only those
    that were found before.

    Baselines decide what to cut before they train, and weights are nothing to the speed: a cut network is quantized and
    timed as it is, beside the original, and the next amount is where a line through its neighbours meets the target.
    What was found once stays, as networks are trained by it. A quick benchmark does not search.
    """
    if bench.setting.quick:
        return {target: target for target in targets}
    path = bench.setting.folder / "probes" / f"{method}.json"
    kept = json.loads(path.read_text()) if path.is_file() else {"probes": [], "amounts": []}
    amounts = dict(kept["amounts"])
    probes = {0.0: 0.0, **dict(kept["probes"]), 1.0: 1.0}
    for target in targets if search else ():
        if target not in amounts:
            amounts[target] = _found(bench, method, target, probes)
            told = {"probes": sorted(probes.items()), "amounts": sorted(amounts.items())}
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(told, indent=1) + "\n")
    return {target: amounts[target] for target in targets if target in amounts}


def _found(bench: Bench, method: str, target: float, probes: dict[float, float]) -> float:
    """The amount whose latency is nearest to the target, after as many more probes as it takes, or may take."""
    made = 0
    while made < MOST_PROBES:
        amount = _between(probes, target)
        cut = [share for kept, share in probes.items() if 0 < kept < 1]
        if amount in probes or min((abs(share / target - 1) for share in cut), default=1.0) <= TOLERANCE:
            break
        probes[amount], made = _probed(bench, method, amount), made + 1
        print(f"{method}: with {amount:g} kept {probes[amount]:.3f} of the latency", flush=True)
    found = {amount: share for amount, share in probes.items() if 0 < amount < 1}
    nearest = min(found, key=lambda amount: abs(found[amount] - target))
    told = f"{method}: {nearest:g} kept for {target:g} of the latency, {found[nearest]:.3f} measured"
    far = abs(found[nearest] / target - 1) > TOLERANCE
    print(f"{told}: none nearer was found in {made} probes" if far else told, flush=True)
    return nearest


def _between(probes: dict[float, float], target: float) -> float:
    """The amount at which a line through the probes beside the target meets it, to one per cent."""
    below = max((a for a, share in probes.items() if share <= target), default=0.0)
    above = min((a for a, share in probes.items() if share > target and a > below), default=1.0)
    span = probes[above] - probes[below]
    amount = below + (above - below) * (target - probes[below]) / span
    return round(min(max(amount, 0.02), 0.98), 2)


def _probed(bench: Bench, method: str, amount: float) -> float:
    """The latency of a cut network as a share of the original's, both in INT8 and side by side in this process.

    1 where the amount cannot be, mostly as so much is no cut at all; the reason is printed.
    """
    from edgepress.errors import CompressError
    from edgepress.targets.base import TargetOptions

    try:
        module = BASELINES[method][1](bench.model, amount)
    except CompressError as error:
        print(f"{method}: {amount:g} cannot be: {error}", flush=True)
        return 1.0
    data = bench.context.data
    few = replace(data, calibration=data.calibration.head(8), validation=data.validation.head(8))
    hasty = replace(bench, context=replace(bench.context, data=few))
    kept = bench.setting.folder / "probes" / "original"
    whole = kept / "engine" / "model.xml"
    with tempfile.TemporaryDirectory() as scratch:
        if not whole.is_file():
            kept.mkdir(parents=True, exist_ok=True)
            built(hasty, bench.model, kept, PROBED_IN)
        small = bench.model.successor(module, bench.model.form)
        cut = built(hasty, small, Path(scratch), PROBED_IN)[0].artefacts[0].path
        options = TargetOptions(batch=1)
        contenders = [
            Contender(label, "openvino", path, options) for label, path in (("whole", whole), ("cut", cut))
        ]
        times = measure_side_by_side(contenders, bench.feeds, 3, bench.setting.network.timed)
    return median(one / other for one, other in zip(times["cut"], times["whole"], strict=True))


# -- timing


def timed(bench: Bench, cells: Sequence[Cell], pairs: int) -> dict[str, dict[str, Any]]:
    """The latency of each engine as a share of the original's, by the cell's label: launches that take turns.

    Engines that differ in nothing but their weights, such as a baseline's of several seeds, are timed once. What was
    timed before, of the same files in the same group, is taken from there.
    """
    graphs = {cell: _engine(bench, cell).read_bytes() for cell in cells if cell != ORIGINAL}
    own = {cell: next(c for c in graphs if graphs[c] == graphs[cell]) for cell in graphs}
    # Ours first: they are compared with each other, in the same rounds where that can be.
    ordered = sorted(set(own.values()), key=lambda cell: (cell.method in BASELINES, cell.seed, cell.label))
    found: dict[str, dict[str, Any]] = {}
    for start in range(0, len(ordered), AT_ONCE):
        found |= _group(bench, [ORIGINAL, *ordered[start : start + AT_ONCE]], pairs)
    whole = {"ratio": 1.0, "ci95": [1.0, 1.0], "logs": [], "ms": found[ORIGINAL.label]["ms"], "group": ""}
    return {ORIGINAL.label: whole} | {cell.label: found[one.label] for cell, one in own.items()}


def _engine(bench: Bench, cell: Cell) -> Path:
    """The file of an engine's graph; its weights lie beside it."""
    return bench.setting.place(cell) / "engine" / "model.xml"


def _group(bench: Bench, cells: Sequence[Cell], pairs: int) -> dict[str, dict[str, Any]]:
    """Latencies of engines that took turns, the original's first.

    Of each its ratio to the original's with the 95 % interval, and the logarithms of it round by round.
    """
    from edgepress.calibration.statistics import geometric_mean
    from edgepress.progress import for_stream
    from edgepress.targets.base import TargetOptions
    from edgepress.targets.measuring.digests import files_digest
    from edgepress.targets.measuring.feeds import repeated
    from edgepress.targets.measuring.latency import of, summarize
    from edgepress.targets.measuring.launch import paired_log_ratio

    engines = {cell.label: _engine(bench, cell) for cell in cells}
    iterations = bench.setting.network.timed
    told = [
        pairs,
        iterations,
        *((label, files_digest([x, x.with_suffix(".bin")])) for label, x in engines.items()),
    ]
    name = hashlib.sha256(json.dumps(told).encode()).hexdigest()[:12]
    kept = bench.setting.folder / "timing" / f"{name}.json"
    if kept.is_file():
        return dict(json.loads(kept.read_text()))
    options = TargetOptions(batch=1)
    contenders = [Contender(label, "openvino", path, options) for label, path in engines.items()]
    launches = measure_in_turns(
        contenders, repeated(bench.feeds), pairs, iterations, 0, for_stream(), warmup_s=1.0
    )
    first = of(launches, contenders[0].label)
    found: dict[str, dict[str, Any]] = {}
    for contender in contenders:
        launched = of(launches, contender.label)
        logs = [paired_log_ratio(a.result, b.result) for a, b in zip(first, launched, strict=True)]
        ratio, ci95 = geometric_mean([exp(log) for log in logs])
        ms = summarize(launched).p50
        found[contender.label] = {"ratio": ratio, "ci95": ci95, "logs": logs, "ms": ms, "group": name}
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(found, indent=1) + "\n")
    return found
