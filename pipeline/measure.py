"""Targets of a run: the float and the compressed model built for each device, both run there, and timed in turns."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..calibration.measurement import MetricRecord
from ..errors import CompressError, DeviceUnavailableError
from ..isolated import Limits
from ..model import METRIC_BATCH, Model
from ..passes.base import PassContext
from ..targets import TARGETS, target_of
from ..targets.base import Artefact, FloatPrecision
from ..targets.measuring.device import BuiltOnlyError, Device, Frozen
from ..targets.measuring.feeds import FeedSequence
from ..targets.measuring.latency import LaunchSamples, Speedup, median_known, of, speedup_in_turns, summarize
from ..targets.measuring.turns import LaunchPlan, measure_rounds
from ..writing import NotWrittenError
from .between import BESIDE_OTHERS, Between, BuiltBetween
from .devices.opened import opened
from .engine_proofs import COMPRESSED, DEFAULT, F32, Candidate, forward_of, judged, layer_finder
from .launch_inputs import example_feeds, run_inputs
from .recipe.sections import MeasureSection, TargetSection
from .run_record import EngineRecord, TargetRecord, plain_settings

FOLDERS: Mapping[str, str] = {COMPRESSED: "compressed", F32: "float-f32", DEFAULT: "float-default"}
"""Where in a target's folder the engine of each label lies."""


@dataclass(frozen=True)
class Measured:
    """A target's record, and the engine files that belong in the run folder."""

    record: TargetRecord
    artefacts: tuple[Artefact, ...]

    @property
    def lasting(self) -> bool:
        """Whether it would be the same again: what failed by a limit of time or memory may not."""
        passing = any(row.reason.startswith(BESIDE_OTHERS) for row in self.record.between)
        return self.record.status in ("run", "built") and not passing


def limits_of(plan: MeasureSection) -> Limits:
    """What an engine's process may take, as a recipe says it."""
    return Limits(plan.timeout_s, plan.memory or 0, ("measure.timeout_s", "measure.memory"))


def require_batch(model: Model, plan: MeasureSection) -> None:
    """Raise CompressError unless the network takes as many samples at once as are to be measured."""
    fixed = model.static_batch
    if fixed is not None and plan.batch != fixed:
        raise CompressError(
            f"measure.batch: {plan.batch}, and the network takes exactly {fixed} at once; write batch: {fixed}"
        )


def measure_target(
    section: TargetSection,
    candidate: Candidate,
    context: PassContext,
    plan: MeasureSection,
    folder: Path,
    between: Sequence[Between] = (),
) -> Measured:
    """Build and, where something runs it, judge and time the float and the compressed model on a device.

    The device may be of this machine, over SSH or simulated. The float model is built in f32 and, where the runtime
    computes in something else when it is not told, in that too. Models between passes are timed beside them. A refusal
    is status "failed", a device that is not reached "unavailable", each with its reason.
    """

    # An engine that bakes the batch in takes what the file takes: it is shipped, and proven in batches.
    batch = 0 if target_of(section.runtime).bakes_in_batch else plan.batch

    try:
        if section.here and (reason := TARGETS[section.runtime].can_build()):
            raise DeviceUnavailableError(reason)
        with opened({section.label: section}, batch, limits_of(plan)) as devices:
            return _measured(devices[section.label], section, candidate, context, plan, folder, between)
    except BuiltOnlyError as error:
        built = error.built
        engine = EngineRecord(
            label=COMPRESSED,
            settings=plain_settings(built.settings),
            engine_bytes=max((a.path.stat().st_size for a in built.artefacts), default=0),
        )
        return Measured(target_record(section, "built", built.reason, compressed=engine), built.artefacts)
    except DeviceUnavailableError as error:
        return Measured(target_record(section, "unavailable", str(error)), ())
    except NotWrittenError:  # a full disk is no failed device
        raise
    except CompressError as error:
        return Measured(target_record(section, "failed", str(error)), ())


def _measured(
    device: Device,
    section: TargetSection,
    candidate: Candidate,
    context: PassContext,
    plan: MeasureSection,
    folder: Path,
    models: Sequence[Between],
) -> Measured:
    facts, onnx_paths = device.facts(), (candidate.float_onnx, candidate.compressed_onnx)
    fed = run_inputs(candidate.model, onnx_paths, context.data.judge, plan)
    engines = _built(device, section, candidate, context, fed, folder)
    unfixed = {label: engine.in_any_batch() for label, engine in engines.items()}
    forwards = {
        label: forward_of(partial(device.outputs, engine), candidate.model)
        for label, engine in unfixed.items()
    }
    options = {label: engine.options for label, engine in unfixed.items()}
    batch = candidate.model.static_batch or METRIC_BATCH
    find_layer = layer_finder(section, options, candidate, context)
    parities, metrics, fidelity = judged(section.label, forwards, candidate, context, batch, find_layer)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        between = BuiltBetween.build(device, models, Path(scratch), fed, context.progress)
        try:
            launches = _timed(device, {**engines, **between.engines}, fed, plan, context)
        except (DeviceUnavailableError, NotWrittenError):
            raise
        except CompressError as error:
            if not between.engines:
                raise
            # Beside more engines each may hold less memory: what is shipped is timed as if there were no others.
            between = between.untimed(error)
            launches = _timed(device, engines, fed, plan, context)
    records = {
        label: _engine_record(label, engine, of(launches, label), fed, metrics[label])
        for label, engine in engines.items()
    }
    record = target_record(
        section,
        "run",
        version=facts.version,
        baseline=records[F32],
        default=records.get(DEFAULT),
        compressed=records[COMPRESSED],
        # Over a baseline that computes something else a ratio would say nothing.
        speedup=speedups(launches, [b for b in (F32, DEFAULT) if b in engines and parities[b].ok]),
        between=between.records(models, launches, fed),
        parity=parities.pop(COMPRESSED),
        fidelity=fidelity,
        float_parity=list(parities.values()),
    )
    return Measured(record, tuple(a for engine in engines.values() for a in engine.artefacts))


def _built(
    device: Device,
    section: TargetSection,
    candidate: Candidate,
    context: PassContext,
    fed: FeedSequence,
    folder: Path,
) -> dict[str, Frozen]:
    """The engines by label, the compressed one first: where nothing runs it, no other is built."""
    shutil.rmtree(folder, ignore_errors=True)  # what an earlier run built there for other options
    engines = {}
    for label, precision in _precisions(section).items():
        context.progress.say(f"{section.label}: building {label}")
        place = folder / FOLDERS[label]
        engines[label] = device.build(candidate.onnx(label), place, fed.feeds[0], precision)
    return engines


def _engine_record(
    label: str, engine: Frozen, launches: Sequence[LaunchSamples], fed: FeedSequence, metric: MetricRecord
) -> EngineRecord:
    return EngineRecord(
        label=label,
        settings=plain_settings(engine.settings, launches[0].result.settings),
        latency_ms=summarize(launches, fed),
        metric=metric,
        engine_bytes=engine.bytes,
        precision=engine.precision,
        layers=list(engine.layers),
        peak_memory_bytes=median_known([x.result.peak_bytes for x in launches]),
        joules=median_known([x.result.joules for x in launches]),
    )


def _precisions(section: TargetSection) -> dict[str, FloatPrecision | None]:
    """The float precision of each engine that is built, None for that of the section."""
    wanted: dict[str, FloatPrecision | None] = {COMPRESSED: None, F32: "f32"}
    if section.float_precision != "f32" and target_of(section.runtime).own_float_default:
        wanted[DEFAULT] = None
    return wanted


def _timed(
    device: Device,
    engines: Mapping[str, Frozen],
    fed: FeedSequence,
    plan: MeasureSection,
    context: PassContext,
) -> list[LaunchSamples]:
    context.progress.say(
        f"{device.label}: timing {len(engines)} engines, {plan.pairs} launches each in turns, "
        f"batch {plan.batch}, over {fed.origin}"
    )
    how = LaunchPlan(plan.iterations, plan.warmup_s, context.seed)
    return measure_rounds(device, engines, fed, plan.pairs, how, context.progress)


def layer_times(
    onnx_path: Path, section: TargetSection, model: Model, folder: Path, limits: Limits
) -> dict[str, float]:
    """Milliseconds of each executed layer of `onnx_path`, by the names of the ONNX nodes in it that multiply."""
    with opened({section.label: section}, 1, limits) as devices:
        try:
            engine = devices[section.label].build(onnx_path, folder, example_feeds(model, 1))
        except BuiltOnlyError:
            return {}
    return {node: layer.ms for layer in engine.layers if layer.ms is not None for node in layer.onnx_nodes}


def speedups(launches: Sequence[LaunchSamples], baselines: Sequence[str]) -> list[Speedup]:
    """The compressed engine's over each baseline, by their turns."""
    compressed = of(launches, COMPRESSED)
    return [speedup_in_turns(of(launches, label), compressed) for label in baselines]


def target_record(section: TargetSection, status: Any, reason: str = "", **more: Any) -> TargetRecord:
    """The record of a target, with what there is `more` to tell; of a device elsewhere only it knows the version."""
    version = TARGETS[section.runtime].version() if section.here else None
    return TargetRecord(
        device=section.device,
        runtime=section.runtime,
        name=section.name,
        status=status,
        reason=reason,
        **{"version": version, **more},
    )
