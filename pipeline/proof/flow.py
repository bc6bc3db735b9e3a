"""The proofs of a run: eager float to its ONNX file, eager compressed to its own, and what the last pass said."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ...calibration.data import DataParts, Part
from ...errors import CompressError, cause
from ...form import QUANTIZED
from ...model import METRIC_BATCH, Model
from ...targets import REFERENCE, TARGETS
from ...targets.base import TargetOptions
from ...targets.isolated_engine import load
from ...targets.measuring.machine import cpu_model
from ..engine_proofs import Candidate, forward_of, proof_feeds
from ..files import sha256_file
from ..measure import limits_of
from ..onnx_files.cut import Values
from ..onnx_files.precision import low_precision_of
from ..prepare import Prepared
from ..run_record import ParityRecord
from ..steps import Step
from ..store import Store, key_of
from .closing import prove_closing
from .divergence import Suspect, where
from .eager_values import eager_values
from .edges import (
    FLOAT_LIMIT,
    LOW_PRECISION_LIMIT,
    SAMPLES,
    Limit,
    Outputs,
    broken,
    labels_are_classes,
    outputs_of,
    prove,
)
from .ranked import ranked_outputs
from .store import store_proofs, stored_proofs


class FlowProofs:
    """The proofs of the edges before any device. records: what was proven, in order."""

    def __init__(self, prepared: Prepared, store: Store, remeasure: bool) -> None:
        self.prepared, self.store, self.remeasure = prepared, store, remeasure
        self.recipe, self.progress = prepared.recipe, prepared.progress
        self.records: list[ParityRecord] = []

    def candidate(
        self,
        steps: Sequence[Step],
        model: Model,
        float_onnx: Path,
        onnx_path: Path,
        data: DataParts,
        shared: Mapping[str, Any],
    ) -> Candidate:
        """The proofs of the exported files, those of an earlier run of the same files if all of them held."""
        final = steps[-1].model
        facts = {
            "after": steps[-1].key,
            "float": sha256_file(float_onnx),
            "compressed": sha256_file(onnx_path),
        }
        key = key_of({**shared, **facts, "proofs": [cpu_model(), os.cpu_count()]})
        if not self.remeasure and (found := stored_proofs(self.store, key)) and len(found[1]) == 2:
            self.records, (before, after) = found
            low = "" if model.onnx_path is None else low_precision_of(model.onnx_path)
            return Candidate(
                float_onnx, onnx_path, final, bool(low) or _is_quantized(final), before, after, low
            )
        candidate = self._prove(model, final, float_onnx, onnx_path, data)
        self._prove_closing(steps, candidate, data)
        store_proofs(self.store, key, self.records, (candidate.float_reference, candidate.reference))
        return candidate

    def _prove(
        self, model: Model, final: Model, float_onnx: Path, onnx_path: Path, data: DataParts
    ) -> Candidate:
        """Eager float → its ONNX; eager compressed → its ONNX; and how far compression moved the outputs."""
        low = "" if model.onnx_path is None else low_precision_of(model.onnx_path)
        quantized = bool(low) or _is_quantized(final)
        lowered = replace(LOW_PRECISION_LIMIT, because=low)
        part = data.validation
        eager = _outputs(model, part)
        reference = self._prove_export(
            "float", float_onnx, eager, model, part, lowered if low else FLOAT_LIMIT
        )
        if final is model:
            return Candidate(float_onnx, onnx_path, final, quantized, reference, reference, low)
        compressed = _outputs(final, part)
        limit = lowered if quantized else FLOAT_LIMIT
        compressed_reference = self._prove_export("compressed", onnx_path, compressed, final, part, limit)
        classes = labels_are_classes(part)
        told = prove("float → compressed", eager, compressed, None, final.output_names, classes=classes)
        self.records.append(told)
        return Candidate(float_onnx, onnx_path, final, quantized, reference, compressed_reference, low)

    def _prove_export(
        self, label: str, path: Path, eager: Outputs, model: Model, part: Part, limit: Limit
    ) -> Outputs:
        """Prove an ONNX file on onnxruntime; returns what runtimes are then compared with.

        Where onnxruntime fails on the file, the proof is broken and says so, and the eager outputs take its place.
        """
        edge = f"{label}: PyTorch → ONNX"
        try:
            limits = limits_of(self.recipe.measure)
            with load(TARGETS[REFERENCE], path, TargetOptions(), limits) as engine:
                batch = model.static_batch or METRIC_BATCH
                found = outputs_of(forward_of(engine.run, model), part, batch)
        except CompressError as error:
            self.records.append(broken(edge, f"{REFERENCE}: {error}", len(part.head(SAMPLES))))
            return eager
        ranked, classes = ranked_outputs(path), labels_are_classes(part)
        proof = prove(edge, eager, found, limit, model.output_names, ranked, classes=classes)
        if not proof.ok:
            self.progress.say(f"looking for the layer that differs: {edge}")
            feeds = proof_feeds(model, part, eager, found)
            proof = proof.model_copy(update={"where": self._where_exported(path, model, feeds, limit)})
        self.records.append(proof)
        return found

    def _prove_closing(self, steps: Sequence[Step], candidate: Candidate, data: DataParts) -> None:
        """What the last pass said of its outputs, against those of the exported file."""
        last = steps[-1]
        closing = last.record.details.get("closing")
        if not last.record.modified or closing is None:
            return
        before = candidate.float_reference
        if len(steps) > 2:  # its input was another pass's output
            before = _outputs(steps[-2].model, data.validation)
        proof = prove_closing(last.record.pass_name, closing, before, candidate.reference)
        self.records += [proof] if proof is not None else []

    def _where_exported(self, path: Path, model: Model, feeds: Values, limit: Limit) -> str:
        """The first layer of an exported file that is not what PyTorch computes, in words."""
        suspect = Suspect(path, REFERENCE, TargetOptions(), as_is=True, limit_db=limit.sqnr_db)
        if model.onnx_path is not None:  # not exported: only onnxruntime itself can be asked
            return where(suspect, feeds)
        try:
            inputs = tuple(torch.from_numpy(feeds[name]) for name in model.input_names)
            return where(suspect, feeds, eager_values(model, inputs, self.recipe.export.opset))
        except Exception as error:  # PyTorch's; the proof is broken with or without a layer
            return f"the layer was not found: {cause(error)}"


def _outputs(model: Model, part: Part) -> Outputs:
    """The network's own outputs for the samples of the proofs."""
    forward, batch = model.in_batches()
    return outputs_of(forward, part, batch)


def _is_quantized(model: Model) -> bool:
    """Whether a pass quantized it; a file says itself what it multiplies in, and codes are multiplied as floats."""
    return model.form in QUANTIZED and model.onnx_path is None
