"""The networks of pruning_curve.py judged: in float, and in INT8 by their engines on OpenVINO."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from int8_peers import _forward
from pruning_methods import trained
from pruning_setting import ORIGINAL, Bench, Cell, Setting


def judged(cell: Cell, bench: Bench) -> dict[str, Any]:
    """Train a network if it is not yet, build its INT8 engine and judge both; kept, and taken from there if it is."""
    place = bench.setting.place(cell)
    place.mkdir(parents=True, exist_ok=True)
    kept = place / "row.json"
    judged_by = [bench.setting.network.quantize, bench.setting.network.calibration]
    if kept.is_file() and (known := json.loads(kept.read_text()))["judged_by"] == judged_by:
        return dict(known["row"])
    started = time.perf_counter()
    model, notes = trained(cell, bench)
    engine, quantized_notes = built(bench, model, place, bench.setting.network.quantize)
    facts, data = model.facts(), bench.context.data
    row: dict[str, Any] = {
        "method": cell.method,
        "target": cell.target,
        "seed": cell.seed,
        "amount": cell.amount,
        "params": facts.params,
        "macs": facts.macs,
        "notes": [*notes, *quantized_notes],
        "accuracy": {},
    }
    arrays: dict[str, Any] = {}
    for kind, forward, batch in (("float", model.run, 32), ("int8", _forward(engine), 1)):
        # Of the validation part, by which epochs were chosen, only the float network is told.
        parts = {"validation": data.validation} if kind == "float" else {}
        for name, part in (parts | {"test": data.judge}).items():
            scores, logits = _measured(bench.context.metric, forward, part, batch)
            arrays[f"{kind}_{name}"] = scores
            row["accuracy"][f"{kind}_{name}"] = float(scores.mean())
        arrays[f"{kind}_logits"] = logits
        row[kind] = _likeness(bench, arrays["float_logits"] if cell == ORIGINAL else None, logits)
    row["seconds"] = time.perf_counter() - started
    np.savez(place / "scores.npz", **arrays)
    kept.write_text(json.dumps({"judged_by": judged_by, "row": row}, indent=1) + "\n")
    return row


def scores_of(setting: Setting, cell: Cell) -> Any:
    """Right or wrong, 1 or 0, on each test sample by the INT8 engine, (n,)."""
    with np.load(setting.place(cell) / "scores.npz") as arrays:
        return arrays["int8_test"]


def _measured(metric: Any, forward: Any, part: Any, batch: int) -> tuple[Any, Any]:
    """Scores (n,) and logits (n, classes) on a part."""
    heard = []

    def overheard(*inputs: Any) -> Any:
        outputs = forward(*inputs)
        heard.append(outputs[0].numpy())
        return outputs

    return metric.measure(overheard, part, batch).scores, np.concatenate(heard)


def _likeness(bench: Bench, original: Any, logits: Any) -> dict[str, float]:
    """How unlike the float original's logits (n, classes) others are: mean KL in nats, share of equal classes.

    original: None where it is already kept.
    """
    import torch
    from edgepress.calibration.fidelity import divergences

    if original is None:
        with np.load(bench.setting.place(ORIGINAL) / "scores.npz") as arrays:
            original = arrays["float_logits"]
    divergence = divergences(torch.from_numpy(original), torch.from_numpy(logits))
    agreement = float((logits.argmax(1) == original.argmax(1)).mean())
    return {"kl": float(divergence.mean()), "agreement": agreement}


def built(bench: Bench, model: Any, folder: Path, options: dict[str, Any]) -> tuple[Any, tuple[str, ...]]:
    """The INT8 engine of a float network, for one sample at a time; and what `quantize` tells of it."""
    from edgepress.passes.quantize import Quantize
    from edgepress.pipeline.export import export
    from edgepress.targets import openvino
    from edgepress.targets.base import TargetOptions

    data = bench.context.data
    few = replace(data, calibration=data.calibration.head(bench.setting.network.calibration))
    result = Quantize.model_validate(options).apply(model, replace(bench.context, data=few))
    onnx = export(result.model, folder / "int8.onnx")
    return openvino.build(onnx, TargetOptions(batch=1), folder / "engine"), result.notes
