"""Targets of this machine: the float and the compressed model built for each, both run, and timed in turns."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..calibration.data import Part
from ..errors import CompressError, DeviceUnavailableError
from ..isolated import Limits
from ..model import METRIC_BATCH, Forward, Model, padded
from ..passes.base import PassContext
from ..targets import TARGETS
from ..targets.base import Artefact, BuiltOnly, TargetOptions
from ..targets.graphs.attribution import precision_shares
from ..targets.isolated_engine import IsolatedEngine, build
from ..targets.measuring.device import LAYER_ITERATIONS, BuiltOnlyError
from ..targets.measuring.feeds import FeedSequence
from ..targets.measuring.latency import (
    Contender,
    LaunchSamples,
    Speedup,
    measure_in_turns,
    median_known,
    of,
    speedup_in_turns,
    summarize,
)
from ..writing import NotWrittenError
from .engine_proofs import COMPRESSED, DEFAULT, F32, Candidate, FindLayer, judged
from .launch_inputs import example_feeds, run_inputs
from .proof.divergence import Suspect, where
from .proof.edges import Limit, Outputs, worst_samples
from .recipe.sections import MeasureSection, TargetSection
from .run_record import EngineRecord, ParityRecord, TargetRecord, plain_settings

if TYPE_CHECKING:
    from ..targets.base import Feeds, Target

WHERE_SAMPLES = 16


@dataclass(frozen=True)
class Measured:
    """A target's record, and the engine files that belong in the run folder."""

    record: TargetRecord
    artefacts: tuple[Artefact, ...]


def options_of(section: TargetSection, batch: int = 0, precision: str = "") -> TargetOptions:
    """The target options that a recipe's section asks for."""
    return TargetOptions(
        device=section.device,
        float_precision="f32" if precision == "f32" else section.float_precision,
        threads=section.threads,
        compute_capabilities=section.compute_capabilities,
        batch=batch,
    )


def limits_of(plan: MeasureSection) -> Limits:
    """What an engine's process may take, as a recipe says it."""
    return Limits(plan.timeout_s, plan.memory or 0, ("measure.timeout_s", "measure.memory"))


def require_batch(model: Model, plan: MeasureSection) -> None:
    """Raise CompressError unless the network takes as many samples at once as are to be measured."""
    fixed = model.static_batch
    if fixed is not None and plan.batch != fixed:
        raise CompressError(
            f"measure.batch: {plan.batch}, and the network takes exactly {fixed} samples at once; write batch: {fixed}"
        )


def measure_target(
    section: TargetSection, candidate: Candidate, context: PassContext, plan: MeasureSection, folder: Path
) -> Measured:
    """Build and, where the device is here, run and time. A refusal is status "failed", with its reason."""
    require_batch(candidate.model, plan)
    target = TARGETS[section.runtime]

    def work() -> Measured:
        if reason := target.can_build():
            raise DeviceUnavailableError(reason)
        context.progress.say(f"{section.label}: building")
        place, limits = folder / "compressed", limits_of(plan)
        built = build(target, candidate.compressed_onnx, options_of(section), place, limits)
        if isinstance(built, BuiltOnly):
            raise BuiltOnlyError(built)
        return _run(section, target, built, candidate, context, plan, folder)

    return measured_or_why(section, work)


def measured_or_why(section: TargetSection, work: Callable[[], Measured]) -> Measured:
    """What `work` measures, or the record of what kept it from that."""
    try:
        return work()
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


def _run(
    section: TargetSection,
    target: Target,
    compressed: IsolatedEngine,
    candidate: Candidate,
    context: PassContext,
    plan: MeasureSection,
    folder: Path,
) -> Measured:
    options = {COMPRESSED: options_of(section), F32: options_of(section, precision="f32")}
    if section.float_precision != "f32" and target.own_float_default:
        options[DEFAULT] = options_of(section)
    with ExitStack() as opened:
        engines: dict[str, IsolatedEngine] = {COMPRESSED: opened.enter_context(compressed)}
        for label in (F32, DEFAULT):
            if label in options:
                name = "float-f32" if label == F32 else "float-default"
                engine = build(target, candidate.float_onnx, options[label], folder / name, limits_of(plan))
                assert not isinstance(engine, BuiltOnly)
                engines[label] = opened.enter_context(engine)
        forwards = {label: forward_of(engine.run, candidate.model) for label, engine in engines.items()}
        find_layer = layer_finder(section, options, candidate, context)
        batch = candidate.model.static_batch or METRIC_BATCH
        parities, metrics = judged(section.label, forwards, candidate, context, batch, find_layer)
    # Their processes are gone now: nothing of them is beside what is timed.
    onnx_paths = candidate.float_onnx, candidate.compressed_onnx
    fed = run_inputs(candidate.model, onnx_paths, context.data.judge, plan)
    launches = _time(section, engines, options, fed, plan, context)
    records = {
        label: EngineRecord(
            label=label,
            settings=plain_settings(engine.settings),
            latency_ms=summarize(of(launches, label), fed),
            **resources(of(launches, label)),
            metric=metrics[label],
            engine_bytes=sum(a.path.stat().st_size for a in engine.artefacts),
            **_layers(target, label, candidate, options[label], plan, fed.feeds[0]),
        )
        for label, engine in engines.items()
    }
    record = target_record(
        section,
        "run",
        baseline=records[F32],
        default=records.get(DEFAULT),
        compressed=records[COMPRESSED],
        # Over a baseline that computes something else a ratio would say nothing.
        speedup=speedups(launches, [b for b in (F32, DEFAULT) if b in engines and parities[b].ok]),
        parity=parities.pop(COMPRESSED),
        float_parity=list(parities.values()),
    )
    return Measured(record, tuple(a for engine in engines.values() for a in engine.artefacts))


def layer_finder(
    section: TargetSection,
    options: Mapping[str, TargetOptions],
    candidate: Candidate,
    context: PassContext,
) -> FindLayer:
    """The search for the layer at which an engine of this machine parts from its ONNX file. options: by label."""

    def find(label: str, limit: Limit, proof: ParityRecord, before: Outputs, after: Outputs) -> str:
        place = candidate.onnx(label), section.runtime, options[label], False
        suspect = Suspect(*place, limit.sqnr_db, proof.sqnr_db)
        return where(suspect, proof_feeds(candidate.model, context.data.validation, before, after))

    return find


def _time(
    section: TargetSection,
    engines: Mapping[str, IsolatedEngine],
    options: Mapping[str, TargetOptions],
    fed: FeedSequence,
    plan: MeasureSection,
    context: PassContext,
) -> list[LaunchSamples]:
    contenders = [
        Contender(label, section.runtime, engine.artefacts[0].path, replace(options[label], batch=plan.batch))
        for label, engine in engines.items()
    ]
    context.progress.say(
        f"{section.label}: timing {len(contenders)} engines, {plan.pairs} launches each in turns, "
        f"batch {plan.batch}, over {fed.origin}"
    )
    return measure_in_turns(
        contenders,
        fed,
        plan.pairs,
        plan.iterations,
        context.seed,
        context.progress,
        warmup_s=plan.warmup_s,
        limits=limits_of(plan),
    )


def _layers(
    target: Target,
    label: str,
    candidate: Candidate,
    options: TargetOptions,
    plan: MeasureSection,
    feeds: Feeds,
) -> dict[str, Any]:
    """Per-layer times and the share of MACs in each executed precision, of the engine as it is timed."""
    onnx_path = candidate.onnx(label)
    with tempfile.TemporaryDirectory() as folder:
        engine = build(target, onnx_path, replace(options, batch=plan.batch), Path(folder), limits_of(plan))
        assert not isinstance(engine, BuiltOnly)
        with engine:
            layers = engine.layers(feeds, LAYER_ITERATIONS)
    return {"precision": precision_shares(layers), "layers": layers}


def layer_times(
    onnx_path: Path, section: TargetSection, model: Model, folder: Path, limits: Limits
) -> dict[str, float]:
    """Milliseconds of each executed layer of `onnx_path`, by the names of the ONNX nodes in it that multiply."""
    engine = build(TARGETS[section.runtime], onnx_path, options_of(section, batch=1), folder, limits)
    if isinstance(engine, BuiltOnly):
        return {}
    with engine:
        layers = engine.layers(example_feeds(model, 1), LAYER_ITERATIONS)
    return {node: layer.ms for layer in layers if layer.ms is not None for node in layer.onnx_nodes}


def forward_of(infer: Callable[[Feeds], Sequence[Any]], model: Model, batch: int | None = None) -> Forward:
    """An engine's inference as a function from tensors to tensors.

    batch: what the engine takes at once, to which fewer samples are filled up; by default as the model says it.
    """

    def run(*inputs: Tensor) -> tuple[Tensor, ...]:
        feeds = {name: x.numpy() for name, x in zip(model.input_names, inputs, strict=True)}
        return tuple(torch.from_numpy(np.asarray(y)) for y in infer(feeds))

    return padded(run, batch) if batch else model.in_batches(forward=run)[0]


def proof_feeds(model: Model, part: Part, before: Outputs, after: Outputs) -> dict[str, np.ndarray[Any, Any]]:
    """The samples of a part whose outputs are furthest off, as many as the search for a layer takes at once."""
    size = model.static_batch or WHERE_SAMPLES
    worst = worst_samples(before, after, size)
    inputs, _ = part.batch([worst[i % len(worst)] for i in range(size)])
    return {name: x.numpy() for name, x in zip(model.input_names, inputs, strict=True)}


def resources(launches: Sequence[LaunchSamples]) -> dict[str, Any]:
    """What the launches of one engine took beside time, as far as the machine tells: medians, None for unknown."""
    return {
        "peak_memory_bytes": median_known([x.result.peak_bytes for x in launches]),
        "joules": median_known([x.result.joules for x in launches]),
    }


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
