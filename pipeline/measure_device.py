"""A device of devices.yaml in a run: here, over SSH or simulated, engines are built, proven, judged and timed alike."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..calibration.metric import padded
from ..errors import CompressError, DeviceUnavailableError
from ..model import Forward, Model
from ..passes.base import PassContext
from ..targets import TARGETS
from ..targets.base import FAKE, Artefact
from ..targets.measuring.device import BuiltOnlyError, Device, DeviceLostError, Frozen
from ..targets.measuring.latency import LaunchSamples, of
from ..targets.measuring.turns import LaunchPlan, launch_pairs
from ..writing import NotWrittenError
from .devices.opened import opened
from .engine_proofs import COMPRESSED, DEFAULT, F32, Candidate, judged
from .measure import (
    Measured,
    example_feeds,
    has_own_default,
    latency_record,
    layer_finder,
    limits_of,
    require_batch,
    resources,
    speedups,
)
from .recipe.sections import MeasureSection, TargetSection
from .run_record import EngineRecord, LayerRecord, TargetRecord, plain_settings


@dataclass
class _Losses:
    """Pairs of launches that do not count; see `turns.Losses`."""

    set_aside: list[str] = field(default_factory=list)
    lost: bool = False


def measure_device(
    section: TargetSection, candidate: Candidate, context: PassContext, plan: MeasureSection, folder: Path
) -> Measured:
    """Build and, where something runs it, judge and time the float and the compressed model on a named device.

    The float engine is what the device's own options make of the model: f32, or the runtime's default. A refusal is
    status "failed", a device that is not reached "unavailable", each with its reason.
    """
    require_batch(candidate.model, plan)
    try:
        with opened({section.name: section}, plan.batch, limits_of(plan)) as devices:
            return _measured(devices[section.name], section, candidate, context, plan, folder)
    except BuiltOnlyError as error:
        size = max((a.path.stat().st_size for a in error.built.artefacts), default=0)
        settings = plain_settings(error.built.settings)
        engine = EngineRecord(label=COMPRESSED, settings=settings, engine_bytes=size)
        return Measured(
            _record(section, "built", error.built.reason, compressed=engine), error.built.artefacts
        )
    except DeviceUnavailableError as error:
        return Measured(_record(section, "unavailable", str(error)), ())
    except NotWrittenError:  # a full disk is no failed device
        raise
    except CompressError as error:
        return Measured(_record(section, "failed", str(error)), ())


def _measured(
    device: Device,
    section: TargetSection,
    candidate: Candidate,
    context: PassContext,
    plan: MeasureSection,
    folder: Path,
) -> Measured:
    facts, feeds = device.facts(), example_feeds(candidate.model, plan.batch)
    base = DEFAULT if section.float_precision != "f32" and has_own_default(section.runtime) else F32
    shutil.rmtree(folder, ignore_errors=True)  # what an earlier run built there for other options
    frozen: dict[str, Frozen] = {}
    for label, name in ((COMPRESSED, "compressed"), (base, "float")):
        context.progress.say(f"{section.label}: building {name}")
        frozen[label] = device.build(candidate.onnx(label), folder / name, feeds)
    forwards = {
        label: _forward(device, engine, candidate.model, plan.batch) for label, engine in frozen.items()
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
    launches = _timed(device, {label: frozen[label] for label in (base, COMPRESSED)}, feeds, plan, context)
    engines = {
        label: EngineRecord(
            label=label,
            settings=plain_settings(of(launches, label)[0].result.settings),
            latency_ms=latency_record(of(launches, label)),
            metric=metrics[label],
            engine_bytes=engine.bytes,
            precision=engine.precision if engine.layers else {},
            layers=[LayerRecord.model_validate(asdict(layer)) for layer in engine.layers],
            **resources(of(launches, label)),
        )
        for label, engine in frozen.items()
    }
    record = _record(
        section,
        "run",
        "",
        version=facts.version,
        compressed=engines[COMPRESSED],
        baseline=engines.get(F32),
        default=engines.get(DEFAULT),
        speedup=speedups(launches, [base] if parities[base].ok else []),
        parity=parities[COMPRESSED],
        float_parity=[parities[base]],
    )
    return Measured(record, _artefacts(section, folder))


def _forward(device: Device, engine: Frozen, model: Model, batch: int) -> Forward:
    """An engine on a device as a function from tensors to tensors, for at most `batch` samples."""

    def run(*inputs: Tensor) -> tuple[Tensor, ...]:
        feeds = {name: x.numpy() for name, x in zip(model.input_names, inputs, strict=True)}
        return tuple(torch.from_numpy(np.asarray(y)) for y in device.outputs(engine, feeds))

    return padded(run, batch)


def _timed(
    device: Device,
    engines: Mapping[str, Frozen],
    feeds: dict[str, np.ndarray[Any, Any]],
    plan: MeasureSection,
    context: PassContext,
) -> list[LaunchSamples]:
    """Pairs of launches in turns, all that were asked for; DeviceLostError when the device went for good.

    CompressError when too many of them did not count.
    """
    context.progress.say(
        f"{device.label}: timing {plan.pairs} pairs of launches in turns, batch {plan.batch}"
    )
    losses, launches = _Losses(), list[LaunchSamples]()
    (one, first), (other, second) = engines.items()
    how = LaunchPlan(plan.iterations, plan.warmup_s, context.seed)
    pairs = islice(launch_pairs(device, (first, second), feeds, how, losses), plan.pairs)
    for index, pair in enumerate(
        context.progress.track(pairs, f"{device.label}: pairs of launches", plan.pairs)
    ):
        for label, result in zip((one, other), pair, strict=True):
            launches.append(LaunchSamples(label, index, len(launches), result))
    if len(launches) < 2 * plan.pairs:
        told = f"{len(launches) // 2} of {plan.pairs} pairs of launches counted: {'; '.join(losses.set_aside[:3])}"
        if losses.lost:
            raise DeviceLostError(f"{device.label}: it was lost, {told}")
        raise CompressError(
            f"{device.label}: unfit to be measured on, {told}; see to its cooling and load, or ask for fewer pairs"
        )
    return launches


def _artefacts(section: TargetSection, folder: Path) -> tuple[Artefact, ...]:
    """The engine files that the builds left; a simulated device leaves copies of what is there already."""
    if section.runtime == FAKE:
        return ()
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return tuple(Artefact(path, f"{section.runtime}-engine") for path in files)


def _record(section: TargetSection, status: Any, reason: str, **more: Any) -> TargetRecord:
    target = TARGETS.get(section.runtime)
    told = {"version": target.version() if target is not None and section.here else None, **more}
    return TargetRecord(
        device=section.device,
        runtime=section.runtime,
        name=section.name,
        status=status,
        reason=reason,
        **told,
    )
