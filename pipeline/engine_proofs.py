"""What each engine of a device computes: its proof against its ONNX file, and its metric."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..calibration.data import Part
from ..calibration.measurement import FidelityRecord, MetricRecord
from ..model import Forward, Model
from ..passes.base import PassContext
from ..targets.base import TargetOptions
from .fidelity import metric_and_fidelity, metric_of
from .proof.divergence import Suspect, where
from .proof.edges import (
    FLOAT_LIMIT,
    LOW_PRECISION_LIMIT,
    Limit,
    Outputs,
    labels_are_classes,
    outputs_of,
    prove,
    worst_samples,
)
from .proof.ranked import ranked_outputs
from .recipe.sections import TargetSection
from .run_record import ParityRecord

if TYPE_CHECKING:
    from ..targets.base import Feeds

F32, DEFAULT, COMPRESSED = "float, f32", "float, runtime default", "compressed"
WHERE_SAMPLES = 16
"""Samples in which the search for a layer runs a network."""
FindLayer = Callable[[str, Limit, ParityRecord, Outputs, Outputs], str]
"""Which layer of an engine is the first that differs, in words: its label, limit, broken proof, and both outputs."""


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
    """Outputs of the compressed ONNX file, for the same samples."""
    low_precision_source: str = ""
    """Why the file that was read computes in less than float32 itself; "" where it does not."""

    def onnx(self, label: str) -> Path:
        """The file that the engine of this label was built from."""
        return self.compressed_onnx if label == COMPRESSED else self.float_onnx


def judged(
    device: str,
    forwards: Mapping[str, Forward],
    candidate: Candidate,
    context: PassContext,
    batch: int,
    find_layer: FindLayer | None = None,
) -> tuple[dict[str, ParityRecord], dict[str, MetricRecord], FidelityRecord | None]:
    """The proof of each engine against its ONNX file, its metric, by label, and how alike the compressed one answers.

    device: as texts name it; batch: samples that an engine is given at once; find_layer: asked of a broken proof.
    """
    part, validation = context.data.judge, context.data.validation
    ranked, classes = ranked_outputs(candidate.compressed_onnx), labels_are_classes(validation)
    parities: dict[str, ParityRecord] = {}
    metrics: dict[str, MetricRecord] = {}
    fidelity = None
    # All that is asked of one engine at once: a device keeps one open.
    for label, forward in forwards.items():
        wanted = candidate.reference if label == COMPRESSED else candidate.float_reference
        found = outputs_of(forward, validation, batch)
        limit = _limit(label, candidate, own_default=DEFAULT in forwards)
        names = candidate.model.output_names
        proof = prove(f"{label}: ONNX → {device}", wanted, found, limit, names, ranked, classes=classes)
        if not proof.ok and find_layer is not None:
            context.progress.say(f"{device}: looking for the layer of {label} that differs")
            proof = proof.model_copy(update={"where": find_layer(label, limit, proof, wanted, found)})
        parities[label] = proof
        context.progress.say(f"{device}: measuring {context.metric.name} of {label} on {len(part)} samples")
        if label == COMPRESSED:
            reference = candidate.model.float_original
            metrics[label], fidelity = metric_and_fidelity(forward, batch, reference, context)
        else:
            metrics[label] = metric_of(forward, batch, context)
    return parities, metrics, fidelity


def _limit(label: str, candidate: Candidate, own_default: bool) -> Limit:
    """How far an engine may be off. own_default: whether the runtime computes floats in what it chooses itself."""
    source = candidate.low_precision_source
    lowered = replace(LOW_PRECISION_LIMIT, because=source)
    if source or (label == COMPRESSED and candidate.quantized):
        return lowered
    return FLOAT_LIMIT if label == F32 or not own_default else lowered


def forward_of(infer: Callable[[Feeds], Sequence[Any]], model: Model) -> Forward:
    """An engine's inference as a function from tensors to tensors, which fills a short batch up where it must."""

    def run(*inputs: Tensor) -> tuple[Tensor, ...]:
        feeds = {name: x.numpy() for name, x in zip(model.input_names, inputs, strict=True)}
        return tuple(torch.from_numpy(np.asarray(y)) for y in infer(feeds))

    return model.in_batches(forward=run)[0]


def proof_feeds(model: Model, part: Part, before: Outputs, after: Outputs) -> dict[str, np.ndarray[Any, Any]]:
    """The samples of a part whose outputs are furthest off, as many as the search for a layer takes at once."""
    size = model.static_batch or WHERE_SAMPLES
    worst = worst_samples(before, after, size)
    inputs, _ = part.batch([worst[i % len(worst)] for i in range(size)])
    return {name: x.numpy() for name, x in zip(model.input_names, inputs, strict=True)}


def layer_finder(
    section: TargetSection,
    options: Mapping[str, TargetOptions],
    candidate: Candidate,
    context: PassContext,
) -> FindLayer:
    """The search for the layer at which an engine parts from its ONNX file, on this machine. options: by label."""

    def find(label: str, limit: Limit, proof: ParityRecord, before: Outputs, after: Outputs) -> str:
        if not section.here:
            return f"not looked for: {section.label} is not of this machine"
        place = candidate.onnx(label), section.runtime, options[label], False
        suspect = Suspect(*place, limit.sqnr_db, proof.sqnr_db)
        return where(suspect, proof_feeds(candidate.model, context.data.validation, before, after))

    return find
