"""A device of devices.yaml in a run: here, over SSH or simulated, engines are built, proven, judged and timed alike."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from functools import partial
from itertools import islice
from pathlib import Path

from ..errors import CompressError
from ..model import Model
from ..passes.base import PassContext
from ..targets import target_of
from ..targets.base import FAKE, Artefact
from ..targets.measuring.device import Device, Frozen
from ..targets.measuring.feeds import FeedSequence
from ..targets.measuring.latency import LaunchSamples, of, summarize
from ..targets.measuring.turns import LaunchPlan, Losses, launch_rounds, too_few
from .devices.opened import opened
from .engine_proofs import COMPRESSED, DEFAULT, F32, Candidate, judged
from .launch_inputs import run_inputs
from .measure import (
    Measured,
    forward_of,
    layer_finder,
    limits_of,
    measured_or_why,
    require_batch,
    resources,
    speedups,
    target_record,
)
from .recipe.sections import MeasureSection, TargetSection
from .run_record import EngineRecord, plain_settings


def measure_device(
    section: TargetSection, candidate: Candidate, context: PassContext, plan: MeasureSection, folder: Path
) -> Measured:
    """Build and, where something runs it, judge and time the float and the compressed model on a named device.

    The float engine is what the device's own options make of the model: f32, or the runtime's default. A refusal is
    status "failed", a device that is not reached "unavailable", each with its reason.
    """
    require_batch(candidate.model, plan)

    def work() -> Measured:
        _require_samples(candidate.model)
        with opened({section.name: section}, plan.batch, limits_of(plan)) as devices:
            return _measured(devices[section.name], section, candidate, context, plan, folder)

    return measured_or_why(section, work)


def _require_samples(model: Model) -> None:
    """Raise CompressError for an output that is one for all samples, where the reference was made in other batches.

    Engines of a named device take `measure.batch` samples at once, and the exported file was run on others; with a
    fixed batch both are one.
    """
    if not model.dynamic_batch:
        return
    for size in (2, 3):  # an output of as many rows as there are samples may be chance
        inputs = [x[:1].expand(size, *x.shape[1:]) for x in model.example_inputs]
        for name, output in zip(model.output_names, model.run(*inputs), strict=True):
            if not output.dim() or output.shape[0] != size:
                raise CompressError(
                    f"output {name!r} has no axis of samples, and a named device is given measure.batch samples at a "
                    "time where the exported file was given others: its outputs cannot be compared. Write "
                    "export: {dynamic_batch: false}"
                )


def _measured(
    device: Device,
    section: TargetSection,
    candidate: Candidate,
    context: PassContext,
    plan: MeasureSection,
    folder: Path,
) -> Measured:
    facts, onnx_paths = device.facts(), (candidate.float_onnx, candidate.compressed_onnx)
    fed = run_inputs(candidate.model, onnx_paths, context.data.judge, plan)
    own_default = section.float_precision != "f32" and target_of(section.runtime).own_float_default
    base = DEFAULT if own_default else F32
    shutil.rmtree(folder, ignore_errors=True)  # what an earlier run built there for other options
    frozen: dict[str, Frozen] = {}
    for label, name in ((COMPRESSED, "compressed"), (base, "float")):
        context.progress.say(f"{section.label}: building {name}")
        frozen[label] = device.build(candidate.onnx(label), folder / name, fed.feeds[0])
    forwards = {
        label: forward_of(partial(device.outputs, engine), candidate.model, plan.batch)
        for label, engine in frozen.items()
    }
    find_layer = layer_finder(section, dict.fromkeys(frozen, section.options(plan.batch)), candidate, context)
    parities, metrics = judged(
        section.label,
        forwards,
        candidate,
        context,
        plan.batch,
        find_layer if section.here else lambda *_: f"not looked for: {section.label} is not of this machine",
    )
    launches = _timed(device, {label: frozen[label] for label in (base, COMPRESSED)}, fed, plan, context)
    engines = {
        label: EngineRecord(
            label=label,
            settings=plain_settings(of(launches, label)[0].result.settings),
            latency_ms=summarize(of(launches, label), fed),
            metric=metrics[label],
            engine_bytes=engine.bytes,
            precision=engine.precision if engine.layers else {},
            layers=list(engine.layers),
            **resources(of(launches, label)),
        )
        for label, engine in frozen.items()
    }
    record = target_record(
        section,
        "run",
        version=facts.version,
        compressed=engines[COMPRESSED],
        baseline=engines.get(F32),
        default=engines.get(DEFAULT),
        speedup=speedups(launches, [base] if parities[base].ok else []),
        parity=parities[COMPRESSED],
        float_parity=[parities[base]],
    )
    return Measured(record, _artefacts(section, folder))


def _timed(
    device: Device,
    engines: Mapping[str, Frozen],
    fed: FeedSequence,
    plan: MeasureSection,
    context: PassContext,
) -> list[LaunchSamples]:
    """Rounds of launches in turns, all that were asked for; `too_few` when too many of them did not count."""
    context.progress.say(
        f"{device.label}: timing {plan.pairs} pairs of launches in turns, batch {plan.batch}, over {fed.origin}"
    )
    losses, launches = Losses(), list[LaunchSamples]()
    how = LaunchPlan(plan.iterations, plan.warmup_s, context.seed)
    contenders = [(frozen, fed) for frozen in engines.values()]
    rounds = islice(launch_rounds(device, contenders, how, losses), plan.pairs)
    for index, taken in enumerate(
        context.progress.track(rounds, f"{device.label}: pairs of launches", plan.pairs)
    ):
        for label, result in zip(engines, taken, strict=True):
            launches.append(LaunchSamples(label, index, len(launches), result))
    counted = len(launches) // len(engines)
    if counted < plan.pairs:
        raise too_few(device.label, f"{counted} of {plan.pairs} pairs of launches", losses)
    return launches


def _artefacts(section: TargetSection, folder: Path) -> tuple[Artefact, ...]:
    """The engine files that the builds left; a simulated device leaves copies of what is there already."""
    if section.runtime == FAKE:
        return ()
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return tuple(Artefact(path, f"{section.runtime}-engine") for path in files)
