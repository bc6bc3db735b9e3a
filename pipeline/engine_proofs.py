"""What each engine of a device computes: its proof against its ONNX file, and its metric."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from ..calibration.measurement import MetricRecord
from ..model import Forward, Model
from ..passes.base import PassContext
from .proof.edges import (
    FLOAT_LIMIT,
    LOW_PRECISION_LIMIT,
    Limit,
    Outputs,
    labels_are_classes,
    outputs_of,
    prove,
)
from .proof.ranked import ranked_outputs
from .run_record import ParityRecord

F32, DEFAULT, COMPRESSED = "float, f32", "float, runtime default", "compressed"
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
) -> tuple[dict[str, ParityRecord], dict[str, MetricRecord]]:
    """The proof of each engine against its ONNX file, and its metric, by label.

    device: as texts name it; batch: samples that an engine is given at once; find_layer: asked of a broken proof.
    """
    part, validation = context.data.judge, context.data.validation
    ranked, classes = ranked_outputs(candidate.compressed_onnx), labels_are_classes(validation)
    parities = {}
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
    context.progress.say(f"{device}: measuring {context.metric.name} on {len(part)} samples")
    metrics = {
        label: context.metric.measure(forward, part, batch_size=batch, progress=context.progress).record
        for label, forward in forwards.items()
    }
    return parities, metrics


def _limit(label: str, candidate: Candidate, own_default: bool) -> Limit:
    """How far an engine may be off. own_default: whether the runtime computes floats in what it chooses itself."""
    source = candidate.low_precision_source
    lowered = replace(LOW_PRECISION_LIMIT, because=source)
    if source or (label == COMPRESSED and candidate.quantized):
        return lowered
    return FLOAT_LIMIT if label == F32 or not own_default else lowered
