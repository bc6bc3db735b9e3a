"""Devices: build the float and the compressed model for each target, run both, and time them interleaved."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..calibration.data import Part
from ..calibration.metric import padded
from ..errors import CompressError, DeviceUnavailableError
from ..isolated import Limits
from ..model import Forward, Model
from ..passes.base import PassContext
from ..targets import TARGETS
from ..targets.base import Artefact, BuiltOnly, Engine, TargetOptions
from ..targets.graphs.attribution import precision_shares
from ..targets.isolated_engine import IsolatedEngine, build
from ..targets.measuring.latency import (
    Contender,
    LaunchSamples,
    measure_in_turns,
    of,
    speedup_in_turns,
    summarize,
)
from ..writing import NotWrittenError
from .proof.divergence import Suspect, where
from .proof.edges import (
    FLOAT_LIMIT,
    LOW_PRECISION_LIMIT,
    Outputs,
    labels_are_classes,
    outputs_of,
    prove,
    worst_samples,
)
from .proof.ranked import ranked_outputs
from .recipe.sections import MeasureSection, TargetSection
from .run_record import (
    EngineRecord,
    LatencyRecord,
    LayerRecord,
    MetricRecord,
    ParityRecord,
    SpeedupRecord,
    TargetRecord,
    plain_settings,
)
from .steps import metric_batch, metric_record

if TYPE_CHECKING:
    from ..targets.base import Feeds, Target

LAYER_ITERATIONS = 30
WHERE_SAMPLES = 16
F32, DEFAULT, COMPRESSED = "float, f32", "float, runtime default", "compressed"


@dataclass(frozen=True)
class Candidate:
    """The two models that are compared, as ONNX files, and their reference outputs on the proof samples."""

    float_onnx: Path
    compressed_onnx: Path
    model: Model
    """The compressed model: says names, batch and example inputs."""
    quantized: bool
    float_reference: list[tuple[Tensor, ...]]
    """Outputs of the float ONNX file on onnxruntime, for the proof samples."""
    reference: list[tuple[Tensor, ...]]
    """Those of the compressed ONNX file."""
    low_precision_source: str = ""
    """Why the file that was read computes in less than float32 itself; "" where it does not."""


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


def measure_target(
    section: TargetSection, candidate: Candidate, context: PassContext, plan: MeasureSection, folder: Path
) -> Measured:
    """Build and, where the device is here, run and time. A refusal is status "failed", with its reason."""
    fixed = candidate.model.example_inputs[0].shape[0]
    if not candidate.model.dynamic_batch and plan.batch != fixed:
        raise CompressError(
            f"measure.batch: {plan.batch}, and the network takes exactly {fixed} samples at once; write batch: {fixed}"
        )
    target = TARGETS[section.runtime]
    cannot_build = target.can_build()
    if cannot_build:
        return Measured(_record(section, target, "unavailable", cannot_build), ())
    context.progress.say(f"{section.label}: building")
    try:
        place, limits = folder / "compressed", limits_of(plan)
        built = build(target, candidate.compressed_onnx, options_of(section), place, limits)
        if isinstance(built, BuiltOnly):
            compressed = EngineRecord(
                label=COMPRESSED,
                settings=plain_settings(built.settings),
                engine_bytes=_largest(built.artefacts),
            )
            record = _record(section, target, "built", built.reason)
            return Measured(record.model_copy(update={"compressed": compressed}), built.artefacts)
        return _run(section, target, built, candidate, context, plan, folder)
    except DeviceUnavailableError as error:
        return Measured(_record(section, target, "unavailable", str(error)), ())
    except NotWrittenError:  # a full disk is no failed device
        raise
    except CompressError as error:
        return Measured(_record(section, target, "failed", str(error)), ())


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
    if section.float_precision != "f32" and _has_own_default(target):
        options[DEFAULT] = options_of(section)
    with ExitStack() as opened:
        engines: dict[str, IsolatedEngine] = {COMPRESSED: opened.enter_context(compressed)}
        for label in (F32, DEFAULT):
            if label in options:
                name = "float-f32" if label == F32 else "float-default"
                engine = build(target, candidate.float_onnx, options[label], folder / name, limits_of(plan))
                assert not isinstance(engine, BuiltOnly)
                engines[label] = opened.enter_context(engine)
        parities, metrics = _judged(section, engines, options, candidate, context)
    # Their processes are gone now: nothing of them is beside what is timed.
    feeds = _feeds(candidate.model, plan.batch)
    launches = _time(section, engines, options, feeds, plan, context)
    records = {
        label: EngineRecord(
            label=label,
            settings=plain_settings(engine.settings),
            latency_ms=_latency(launches, label),
            metric=metrics[label],
            engine_bytes=sum(a.path.stat().st_size for a in engine.artefacts),
            **_layers(target, label, candidate, options[label], plan, feeds),
        )
        for label, engine in engines.items()
    }
    record = _record(section, target, "run", "").model_copy(
        update={
            "baseline": records[F32],
            "default": records.get(DEFAULT),
            "compressed": records[COMPRESSED],
            # Over a baseline that computes something else a ratio would say nothing.
            "speedup": _speedups(launches, [b for b in (F32, DEFAULT) if b in engines and parities[b].ok]),
            "parity": parities.pop(COMPRESSED),
            "float_parity": list(parities.values()),
        }
    )
    return Measured(record, tuple(a for engine in engines.values() for a in engine.artefacts))


def _judged(
    section: TargetSection,
    engines: Mapping[str, IsolatedEngine],
    options: Mapping[str, TargetOptions],
    candidate: Candidate,
    context: PassContext,
) -> tuple[dict[str, ParityRecord], dict[str, MetricRecord]]:
    """The proof of each engine against its ONNX file, and its metric."""
    forwards = {label: forward_of(engine, candidate.model) for label, engine in engines.items()}
    part, batch = context.data.judge, metric_batch(candidate.model)
    after = {
        label: outputs_of(forward, context.data.validation, batch) for label, forward in forwards.items()
    }
    lowered = replace(LOW_PRECISION_LIMIT, because=candidate.low_precision_source)
    unforced = lowered if DEFAULT in engines or candidate.low_precision_source else FLOAT_LIMIT
    limits = {
        F32: lowered if candidate.low_precision_source else FLOAT_LIMIT,
        DEFAULT: unforced,
        COMPRESSED: lowered if candidate.quantized else unforced,
    }
    ranked = ranked_outputs(candidate.compressed_onnx)
    references = dict.fromkeys(engines, candidate.float_reference) | {COMPRESSED: candidate.reference}
    parities = {
        label: prove(
            f"{label}: ONNX → {section.label}",
            references[label],
            outputs,
            limits[label],
            candidate.model.output_names,
            ranked,
            classes=labels_are_classes(context.data.validation),
        )
        for label, outputs in after.items()
    }
    for label, record in parities.items():
        if not record.ok:
            context.progress.say(f"{section.label}: looking for the layer of {label} that differs")
            path = candidate.compressed_onnx if label == COMPRESSED else candidate.float_onnx
            suspect = Suspect(
                path, section.runtime, options[label], False, limits[label].sqnr_db, record.sqnr_db
            )
            feeds = proof_feeds(candidate.model, context.data.validation, references[label], after[label])
            found = where(suspect, feeds)
            parities[label] = record.model_copy(update={"where": found})
    context.progress.say(f"{section.label}: measuring {context.metric.name} on {len(part)} samples")
    metrics = {
        label: metric_record(
            context.metric.measure(forward, part, batch_size=batch, progress=context.progress)
        )
        for label, forward in forwards.items()
    }
    return parities, metrics


def _has_own_default(target: Target) -> bool:
    """Whether the runtime may choose another float precision than f32 when it is not told."""
    return target.name == "openvino"


def _time(
    section: TargetSection,
    engines: Mapping[str, IsolatedEngine],
    options: Mapping[str, TargetOptions],
    feeds: Feeds,
    plan: MeasureSection,
    context: PassContext,
) -> list[LaunchSamples]:
    contenders = [
        Contender(label, section.runtime, engine.artefacts[0].path, replace(options[label], batch=plan.batch))
        for label, engine in engines.items()
    ]
    context.progress.say(
        f"{section.label}: timing {len(contenders)} engines, {plan.pairs} launches each in turns, "
        f"batch {plan.batch}"
    )
    return measure_in_turns(
        contenders,
        feeds,
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
    onnx_path = candidate.compressed_onnx if label == COMPRESSED else candidate.float_onnx
    with tempfile.TemporaryDirectory() as folder:
        engine = build(target, onnx_path, replace(options, batch=plan.batch), Path(folder), limits_of(plan))
        assert not isinstance(engine, BuiltOnly)
        with engine:
            layers = engine.layers(feeds, LAYER_ITERATIONS)
    rows = [LayerRecord.model_validate(asdict(layer)) for layer in layers]
    return {"precision": precision_shares(layers), "layers": rows}


def layer_times(
    onnx_path: Path, section: TargetSection, model: Model, folder: Path, limits: Limits
) -> dict[str, float]:
    """Milliseconds of each executed layer of `onnx_path`, by the names of the ONNX nodes in it that multiply."""
    engine = build(TARGETS[section.runtime], onnx_path, options_of(section, batch=1), folder, limits)
    if isinstance(engine, BuiltOnly):
        return {}
    with engine:
        layers = engine.layers(_feeds(model, 1), LAYER_ITERATIONS)
    return {node: layer.ms for layer in layers if layer.ms is not None for node in layer.onnx_nodes}


def forward_of(engine: Engine, model: Model) -> Forward:
    """An engine as a function from tensors to tensors; a static batch is filled up."""

    def run(*inputs: Tensor) -> tuple[Tensor, ...]:
        feeds = {name: x.numpy() for name, x in zip(model.input_names, inputs, strict=True)}
        return tuple(torch.from_numpy(np.asarray(y)) for y in engine.run(feeds))

    if model.dynamic_batch:
        return run
    return padded(run, model.example_inputs[0].shape[0])


def proof_feeds(model: Model, part: Part, before: Outputs, after: Outputs) -> dict[str, np.ndarray[Any, Any]]:
    """The samples of a part whose outputs are furthest off, as many as the search for a layer takes at once."""
    size = WHERE_SAMPLES if model.dynamic_batch else int(model.example_inputs[0].shape[0])
    worst = worst_samples(before, after, size)
    inputs, _ = part.batch([worst[i % len(worst)] for i in range(size)])
    return {name: x.numpy() for name, x in zip(model.input_names, inputs, strict=True)}


def _feeds(model: Model, batch: int) -> dict[str, np.ndarray[Any, Any]]:
    """The example inputs, repeated to `batch` samples."""
    size = batch if model.dynamic_batch else model.example_inputs[0].shape[0]
    return {
        name: x[:1].expand(size, *x.shape[1:]).contiguous().numpy()
        for name, x in zip(model.input_names, model.example_inputs, strict=True)
    }


def _latency(launches: Sequence[LaunchSamples], label: str) -> LatencyRecord:
    summary = asdict(summarize(of(launches, label)))
    samples = [[round(ms, 6) for ms in launch] for launch in summary.pop("samples_ms")]
    return LatencyRecord(**summary, samples_ms=samples)


def _speedups(launches: Sequence[LaunchSamples], baselines: Sequence[str]) -> list[SpeedupRecord]:
    compressed = of(launches, COMPRESSED)
    found = [(label, speedup_in_turns(of(launches, label), compressed)) for label in baselines]
    return [SpeedupRecord(baseline=label, ratio=s.ratio, ci95=s.ci95, pairs=s.pairs) for label, s in found]


def _record(section: TargetSection, target: Target, status: Any, reason: str) -> TargetRecord:
    return TargetRecord(
        device=section.device, runtime=section.runtime, version=target.version(), status=status, reason=reason
    )


def _largest(artefacts: Sequence[Artefact]) -> int:
    return max((a.path.stat().st_size for a in artefacts), default=0)
