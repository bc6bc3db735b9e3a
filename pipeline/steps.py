"""Steps: passes applied in the recipe's order, each verified, measured and stored before the next begins."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..calibration.measurement import FidelityRecord, MetricRecord
from ..calibration.named import import_callable
from ..errors import CompressError
from ..model import Facts, Model
from ..passes.base import Pass, PassContext, PassPlan
from ..passes.order import refusal
from .environment import code_digest
from .fidelity import metric_and_fidelity, metric_of
from .files import sha256_file
from .run_record import StepRecord
from .store import Entry, Store, key_of


@dataclass(frozen=True)
class Step:
    """A finished step: the model after it, its row in the report, and its key in the store."""

    model: Model
    record: StepRecord
    key: str


def float_step(model: Model, key: str, context: PassContext, store: Store) -> Step:
    """The first row: the float model as it was ingested."""
    started = time.monotonic()
    stored = store.get(key)
    if stored is not None:
        record = StepRecord.model_validate({**stored.values["record"], "cached": True})
        return Step(model, record, key)
    measured = metric_of(*model.in_batches(), context), None
    record = _record("float", {}, False, started, model.facts(), measured, [model.source], {})
    store.put(key, Entry({"record": record.model_dump(mode="json")}, {}))
    return Step(model, record, key)


def pass_step(
    before: Step, chosen: Pass, context: PassContext, store: Store, shared: Mapping[str, Any]
) -> Step:
    """Apply one pass, or take it from the store; `shared` is what every step's key depends on.

    Raises CompressError, naming the pass, when the pass cannot work on the model or breaks it.
    """
    if reason := refusal(chosen, before.model.form):
        raise CompressError(f"pass {chosen.name}: {reason}")
    files = [sha256_file(path) for path in chosen.files()]
    code = [code_digest(import_callable(name, chosen.name, context.folder)) for name in chosen.functions()]
    depends = {
        "after": before.key,
        "pass": chosen.name,
        "options": chosen.model_dump(mode="json"),
        "files": files,
        "functions": code,
        "latency": _latency_facts(context) if chosen.by_latency() else None,
    }
    key = key_of({**shared, **depends})
    if (stored := store.get(key)) is not None:
        return _reused(before, chosen, context, key, stored)
    with store.claimed(key, chosen.name, context.progress) as scratch:
        if (stored := store.get(key)) is not None:  # by another run, in the meantime
            return _reused(before, chosen, context, key, stored)
        return _applied(before, chosen, replace(context, scratch=scratch), store, key)


def _latency_facts(context: PassContext) -> list[Any]:
    """What a pass that goes by milliseconds depends on, in its choices or in what it notes of them."""
    return [context.measured_on, context.ends_in, context.batch, dict(context.machines)]


def _reused(before: Step, chosen: Pass, context: PassContext, key: str, stored: Entry) -> Step:
    row = stored.values["record"]
    plan = PassPlan(
        stored.values["structure"],
        stored.tensors,
        modified=row["modified"],
        notes=tuple(row["notes"]),
        details=row["details"],
    )
    result = chosen.result(before.model, plan, context)
    context.progress.say(f"{chosen.name}: reused, finished in an earlier run")
    return Step(result.model, StepRecord.model_validate({**row, "cached": True}), key)


def _applied(before: Step, chosen: Pass, context: PassContext, store: Store, key: str) -> Step:
    started = time.monotonic()
    context.progress.say(f"{chosen.name}: working")
    result = chosen.apply(before.model, context)
    verify(chosen.name, before.model, result.model, result.modified)
    measured = before.record.metric, before.record.fidelity
    if result.modified:
        reference = before.model.float_original
        measured = metric_and_fidelity(*result.model.in_batches(), reference, context)
    record = _record(
        chosen.name,
        chosen.model_dump(mode="json"),
        result.modified,
        started,
        result.model.facts(),
        measured,
        list(result.notes),
        result.plan.details,
    )
    values = {"structure": result.plan.structure, "record": record.model_dump(mode="json")}
    store.put(key, Entry(values, result.plan.tensors))
    return Step(result.model, record, key)


def verify(name: str, before: Model, after: Model, modified: bool) -> None:
    """Outputs finite, shapes and dtypes as before, `modified` true to reality; CompressError otherwise."""
    old, new = before.run(*before.example_inputs), after.run(*after.example_inputs)
    if len(old) != len(new):
        raise CompressError(
            f"pass {name}: the model has {len(new)} outputs after it and had {len(old)} before"
        )
    for output, one, other in zip(before.output_names, old, new, strict=True):
        if one.shape != other.shape or one.dtype != other.dtype:
            raise CompressError(
                f"pass {name}: output '{output}' is {other.dtype} {tuple(other.shape)} after it and was "
                f"{one.dtype} {tuple(one.shape)} before"
            )
        if not torch.isfinite(other).all():
            raise CompressError(f"pass {name}: output '{output}' is not finite after it")
    same = all(torch.equal(one, other) for one, other in zip(old, new, strict=True))
    if not modified and not same:
        raise CompressError(f"pass {name}: it says it changed nothing, and the outputs differ")
    if not modified and after is not before:
        raise CompressError(f"pass {name}: it says it changed nothing, and returned another model")


def _record(
    name: str,
    options: dict[str, Any],
    modified: bool,
    started: float,
    facts: Facts,
    measured: tuple[MetricRecord, FidelityRecord | None],
    notes: list[str],
    details: dict[str, Any],
) -> StepRecord:
    metric, fidelity = measured
    if facts.uncounted:
        notes = [*notes, facts.macs_text]
    return StepRecord(
        pass_name=name,
        options=options,
        modified=modified,
        seconds=round(time.monotonic() - started, 3),
        cached=False,
        params=facts.params,
        macs=facts.macs,
        bytes=facts.bytes,
        metric=metric,
        fidelity=fidelity,
        notes=notes,
        details=details,
    )
