"""Run: a recipe from checkpoint to verdict, in the order of the picture in the package's README."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from ..calibration.data import DataParts, Part
from ..calibration.metric import Metric, metric_named
from ..calibration.scheme import intersect
from ..calibration.sources import load_data
from ..calibration.typed import data_in_types
from ..errors import CompressError, DeviceUnavailableError, cause
from ..model import Model
from ..passes.base import NetworkSource, PassContext
from ..progress import Progress, Silent
from ..targets import TARGETS, onnxruntime
from ..targets.base import TargetOptions
from ..targets.isolated_engine import load
from ..targets.measuring.machine import cpu_model
from ..writing import writing
from .devices.opened import folder_name, opened, require_reached
from .engine_proofs import Candidate
from .environment import code_digest, environment, versions
from .export import export
from .files import sha256_file, write_atomically
from .ingest.model import ingest
from .judge import judge
from .lock import locked
from .measure import Measured, forward_of, layer_times, limits_of, measure_target, proof_feeds
from .measure_device import measure_device
from .metric_units import require_share
from .onnx_files.cut import Values
from .onnx_files.network import why_no_pass
from .onnx_files.precision import low_precision_of
from .packing.l2z_file import pack_file
from .packing.low_bit_file import write_packed
from .packing.weighing import Weighing
from .proof.closing import prove_closing
from .proof.divergence import Suspect, where
from .proof.eager_values import eager_values
from .proof.edges import (
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
from .proof.ranked import ranked_outputs
from .proof.store import store_proofs, stored_proofs
from .recipe.file import read_recipe, recipe_text_of
from .recipe.sections import ModelSection, Recipe, TargetSection
from .report.write import write_reports
from .run_record import ArtefactRecord, ParityRecord, RunRecord
from .steps import Step, float_step, metric_batch, pass_step
from .store import Entry, Store, key_of
from .target_store import store_target, stored_target

STEPS = "steps"


def compress(
    recipe: Recipe | Path | str,
    folder: Path | None = None,
    *,
    fresh: bool = False,
    remeasure: bool = False,
    store: Path | None = None,
    trust_pickle: str | None = None,
    progress: Progress = Silent(),
    command: str = "",
) -> RunRecord:
    """Run a recipe and leave run.json, the reports and the artefacts in `folder` (default `runs/NAME`).

    Work that an earlier run of the same folder finished is reused, unless `fresh`; latencies are then shown with
    their date, unless `remeasure`. Finished work is kept in `store`, which any number of runs may share, also at the
    same time (default: in the run's own folder). Raises CompressError for what a user can fix; a broken promise is
    no error but the verdict FAIL.
    """
    text = "" if isinstance(recipe, Recipe) else recipe_text_of(Path(recipe))
    base = Path() if isinstance(recipe, Recipe) else Path(recipe).resolve().parent
    read = recipe if isinstance(recipe, Recipe) else read_recipe(Path(recipe))
    out = folder or Path("runs") / (read.name or "run")
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    with locked(out):
        kept = Store(store or out / STEPS, shared=store is not None, fresh=fresh)
        run = _Run(read, base, out, kept, remeasure, trust_pickle, progress)
        return run.to_verdict(text or read.model_dump_json(indent=1), command)


def describe(recipe: Recipe, base: Path = Path(), trust_pickle: str | None = None) -> dict[str, Any]:
    """What a run would do, without doing it: the facts that `compress run --dry-run` shows."""
    with tempfile.TemporaryDirectory() as folder:
        run = _Run(recipe, base, Path(folder), Store(Path(folder) / STEPS), False, trust_pickle, Silent())
        run.require_devices()
        data, model = run.read()
        run.refuse_impossible(model)
        facts = model.facts()
        parts = [data.train, data.calibration, data.validation, *([data.test] if data.test else [])]
        return {
            "model": {
                "source": model.source,
                "params": facts.params,
                "macs": facts.macs_text if facts.macs is None else facts.macs,
                "bytes": facts.bytes,
            },
            "data": {part.name: len(part) for part in parts},
            "judged on": data.judge.name,
            "metric": recipe.metric,
            "activations": run.scheme.name,
            "passes": [{"name": p.name, **p.model_dump(mode="json")} for p in recipe.passes],
            "targets": [{"target": t.label, "unavailable": _unavailable(t)} for t in recipe.targets],
            "budgets": recipe.budgets.model_dump(mode="json", exclude_defaults=True),
        }


@dataclass
class _Run:
    recipe: Recipe
    base: Path
    folder: Path
    store: Store
    remeasure: bool
    trust_pickle: str | None
    progress: Progress

    def __post_init__(self) -> None:
        self.started = time.monotonic()
        # A simulated device computes with onnxruntime.
        self.scheme = intersect(TARGETS.get(t.runtime, onnxruntime).scheme for t in self.recipe.targets)
        self.proofs: list[ParityRecord] = []

    def to_verdict(self, recipe_text: str, command: str) -> RunRecord:
        """The whole flow."""
        started_at = datetime.now(UTC).isoformat(timespec="seconds")
        self.require_devices()
        for outdated in (
            "run.json",
            "report.html",
            "report.md",
            "junit.xml",
            "packed.safetensors",
            "model.l2z",
        ):
            (self.folder / outdated).unlink(
                missing_ok=True
            )  # a failed run must not leave an older verdict behind
        data, model = self.read()
        self.refuse_impossible(model)
        context = self._context(data)
        float_onnx = export(model, self.folder / "float.onnx", **self._export_options())
        shared = self._shared(data, context.metric)
        steps = self._steps(model, key_of({**shared, "model": sha256_file(float_onnx)}), shared, context)
        final = steps[-1].model
        self.progress.say("exporting to ONNX and proving it on onnxruntime")
        onnx_path = self._exported(final, steps[-1].key)
        candidate = self._proven(steps, model, float_onnx, onnx_path, data, shared)
        measured = [self._target(section, candidate, context, shared) for section in self.recipe.targets]
        records = [m.record for m in measured]
        packed = write_packed(final, self.folder / "packed.safetensors")
        small = self._write_l2z(final, onnx_path)
        artefacts = self._artefacts(float_onnx, onnx_path, packed, small, measured)
        rows = [step.record for step in steps]
        budgets, verdict, reason = judge(self.recipe.budgets, rows, self.proofs, records, artefacts)
        record = RunRecord(
            name=self.recipe.name or self.folder.name,
            verdict=verdict,
            reason=reason,
            command=command or f"edgepress.compress({self.recipe.name!r})",
            started_at=started_at,
            seconds=round(time.monotonic() - self.started, 1),
            seed=self.recipe.seed,
            environment=environment(),
            data=_data_facts(data, self.recipe),
            recipe=recipe_text,
            budgets=budgets,
            steps=rows,
            proofs=self.proofs,
            artefacts=artefacts,
            targets=records,
        )
        record.write(self.folder)
        write_reports(record, self.folder)
        return record

    def read(self) -> tuple[DataParts, Model]:
        """The data and the float model that the recipe names."""
        section = self.recipe.data
        self.progress.say("reading the data")
        data = load_data(
            section.source,
            section.args,
            {str(k): v for k, v in section.split.items()} if section.split else None,
            section.preprocess,
            section.calibration_samples,
            self.recipe.seed,
            folder=self.base,
            integer_labels=self.recipe.metric.startswith("top"),
            progress=self.progress,
        )
        self.progress.say("reading the model")
        example = data.calibration.example()
        model = ingest(
            self.recipe.model, example, self.trust_pickle, folder=self.base, progress=self.progress
        )
        if not self.recipe.export.dynamic_batch:
            model = model.with_static_batch()
        types = [x.dtype for x in model.example_inputs]
        return data_in_types(data, types, model.input_names), model

    def _context(self, data: DataParts) -> PassContext:
        return PassContext(
            data=data,
            metric=metric_named(self.recipe.metric, self.base),
            scheme=self.scheme,
            seed=self.recipe.seed,
            progress=self.progress,
            device="cuda" if torch.cuda.is_available() else "cpu",
            layer_ms=self._layer_ms,
            load_network=lambda source: self._load_network(source, data),
            packed_bytes=Weighing(**self._export_options()),
            folder=self.base,
        )

    def _load_network(self, source: NetworkSource, data: DataParts) -> Model:
        """A teacher or a student that a pass names, read as the model itself is."""
        section = ModelSection(
            source=source.source, args=source.args, weights=source.weights, weights_key=source.weights_key
        )
        found = ingest(
            section, data.calibration.example(), self.trust_pickle, folder=self.base, progress=self.progress
        )
        return found if self.recipe.export.dynamic_batch else found.with_static_batch()

    def _layer_ms(self, model: Model) -> Mapping[str, float]:
        """Layer times on the first device of the recipe that is here; none where its runtime fails."""
        section = next((s for s in self.recipe.targets if s.here and _unavailable(s) is None), None)
        if section is None:
            return {}
        with tempfile.TemporaryDirectory() as folder:
            path = export(model, Path(folder) / "model.onnx", **self._export_options())
            try:
                return layer_times(path, section, model, Path(folder), limits_of(self.recipe.measure))
            except CompressError as error:  # a report without these times is no reason to lose a pass
                self.progress.say(f"{section.label}: layers were not timed: {error}")
                return {}

    def refuse_impossible(self, model: Model) -> None:
        """Say before any work what the passes will refuse, and a metric that is not there."""
        metric_named(self.recipe.metric, self.base)
        for chosen in self.recipe.passes:
            if refusal := why_no_pass(model.module) or chosen.refuses(model):
                raise CompressError(f"pass {chosen.name}: {refusal}")

    def require_devices(self) -> None:
        """Raise DeviceUnavailableError for a target that the recipe requires and that is not here."""
        for section in self.recipe.targets:
            if section.name:
                if section.required:
                    require_reached({section.name: section})
                continue
            target = TARGETS[section.runtime]
            # A target that is only built for, ahead of time, is asked for engines and not for a device.
            reason = target.can_build() or (
                None if section.compute_capabilities else target.unavailable(section.device)
            )
            if section.required and reason:
                raise DeviceUnavailableError(
                    f"targets: {section.label} is required and not here: {reason}. `compress doctor` lists what is."
                )

    def _export_options(self) -> dict[str, int]:
        return {"opset": self.recipe.export.opset, "ir_version": self.recipe.export.ir_version}

    def _shared(self, data: DataParts, metric: Metric) -> dict[str, Any]:
        return {
            "data": data.manifest,
            "calibration_samples": len(data.calibration),
            "metric": self.recipe.metric,
            "seed": self.recipe.seed,
            "scheme": asdict(self.scheme),
            "versions": versions(),
            "code": code_digest(getattr(metric, "function", None)),
        }

    def _steps(self, model: Model, key: str, shared: dict[str, Any], context: PassContext) -> list[Step]:
        self.progress.say(
            f"measuring the float model: {context.metric.name} on {len(context.data.judge)} samples"
        )
        steps = [float_step(model, key, context, self.store)]
        require_share(self.recipe, steps[0].record.metric)
        for chosen in self.recipe.passes:
            steps.append(pass_step(steps[-1], chosen, context, self.store, shared))
        return steps

    def _exported(self, final: Model, after: str) -> Path:
        """model.onnx, as it lies there if it is the very file that was exported after the same steps."""
        path = self.folder / "model.onnx"
        key = key_of({"export": self._export_options(), "after": after})
        stored = self.store.get(key)
        if stored is not None and path.is_file() and sha256_file(path) == stored.values.get("sha256"):
            return path
        export(final, path, **self._export_options())
        self.store.put(key, Entry({"sha256": sha256_file(path)}, {}))
        return path

    def _proven(
        self,
        steps: list[Step],
        model: Model,
        float_onnx: Path,
        onnx_path: Path,
        data: DataParts,
        shared: dict[str, Any],
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
            self.proofs, (before, after) = found
            low = "" if model.onnx_path is None else low_precision_of(model.onnx_path)
            return Candidate(
                float_onnx, onnx_path, final, bool(low) or _is_quantized(final), before, after, low
            )
        candidate = self._prove(model, final, float_onnx, onnx_path, data)
        self._prove_closing(steps, candidate, data)
        store_proofs(self.store, key, self.proofs, (candidate.float_reference, candidate.reference))
        return candidate

    def _prove(
        self, model: Model, final: Model, float_onnx: Path, onnx_path: Path, data: DataParts
    ) -> Candidate:
        """Eager float → its ONNX; eager compressed → its ONNX; and how far compression moved the outputs."""
        low = "" if model.onnx_path is None else low_precision_of(model.onnx_path)
        quantized = bool(low) or _is_quantized(final)
        lowered = replace(LOW_PRECISION_LIMIT, because=low)
        batch = metric_batch(model)
        part = data.validation
        eager = outputs_of(model.run, part, batch)
        reference = self._prove_export(
            "float", float_onnx, eager, model, part, lowered if low else FLOAT_LIMIT
        )
        if final is model:
            return Candidate(float_onnx, onnx_path, final, quantized, reference, reference, low)
        compressed = outputs_of(final.run, part, batch)
        limit = lowered if quantized else FLOAT_LIMIT
        compressed_reference = self._prove_export("compressed", onnx_path, compressed, final, part, limit)
        classes = labels_are_classes(part)
        told = prove("float → compressed", eager, compressed, None, final.output_names, classes=classes)
        self.proofs.append(told)
        return Candidate(float_onnx, onnx_path, final, quantized, reference, compressed_reference, low)

    def _prove_export(
        self, label: str, path: Path, eager: Outputs, model: Model, part: Part, limit: Limit
    ) -> Outputs:
        """Prove an ONNX file on onnxruntime; returns what runtimes are then compared with.

        Where onnxruntime fails on the file, the proof is broken and says so, and the eager outputs take its place.
        """
        edge = f"{label}: PyTorch → ONNX"
        batch = metric_batch(model)
        try:
            limits = limits_of(self.recipe.measure)
            with load(TARGETS["onnxruntime"], path, TargetOptions(), limits) as engine:
                found = outputs_of(forward_of(engine, model), part, batch)
        except CompressError as error:
            self.proofs.append(broken(edge, f"onnxruntime: {error}", len(part.head(SAMPLES))))
            return eager
        ranked, classes = ranked_outputs(path), labels_are_classes(part)
        proof = prove(edge, eager, found, limit, model.output_names, ranked, classes=classes)
        if not proof.ok:
            self.progress.say(f"looking for the layer that differs: {edge}")
            feeds = proof_feeds(model, part, eager, found)
            proof = proof.model_copy(update={"where": self._where_exported(path, model, feeds, limit)})
        self.proofs.append(proof)
        return found

    def _prove_closing(self, steps: list[Step], candidate: Candidate, data: DataParts) -> None:
        """What the last pass said of its outputs, against those of the exported file."""
        last = steps[-1]
        closing = last.record.details.get("closing")
        if not last.record.modified or closing is None:
            return
        before = candidate.float_reference
        if len(steps) > 2:  # its input was another pass's output
            model = steps[-2].model
            batch = metric_batch(model)
            before = outputs_of(model.run, data.validation, batch)
        proof = prove_closing(last.record.pass_name, closing, before, candidate.reference)
        self.proofs += [proof] if proof is not None else []

    def _where_exported(self, path: Path, model: Model, feeds: Values, limit: Limit) -> str:
        """The first layer of an exported file that is not what PyTorch computes, in words."""
        suspect = Suspect(path, "onnxruntime", TargetOptions(), as_is=True, limit_db=limit.sqnr_db)
        if model.onnx_path is not None:  # not exported: only onnxruntime itself can be asked
            return where(suspect, feeds)
        try:
            inputs = tuple(torch.from_numpy(feeds[name]) for name in model.input_names)
            return where(suspect, feeds, eager_values(model, inputs, self.recipe.export.opset))
        except Exception as error:  # PyTorch's; the proof is broken with or without a layer
            return f"the layer was not found: {cause(error)}"

    def _target(
        self, section: TargetSection, candidate: Candidate, context: PassContext, shared: dict[str, Any]
    ) -> Measured:
        folder = self.folder / ("devices" if section.name else "engines") / folder_name(section.label)
        key = key_of(
            {
                **shared,
                "float": sha256_file(candidate.float_onnx),
                "compressed": sha256_file(candidate.compressed_onnx),
                "target": section.model_dump(mode="json"),
                "measure": self.recipe.measure.model_dump(mode="json", exclude={"timeout_s", "memory"}),
                "machine": [
                    cpu_model(),
                    os.cpu_count(),
                    TARGETS[section.runtime].devices() if section.here else "",
                ],
                "unavailable": _unavailable(section),
                "facts": _facts(section),
            }
        )
        if not self.remeasure and (stored := stored_target(self.store, key, self.folder)):
            self.progress.say(f"{section.label}: reused with its latencies; --remeasure times it again")
            return stored
        measure = measure_device if section.name else measure_target
        measured = measure(section, candidate, context, self.recipe.measure, folder)
        if measured.record.status in ("run", "built"):
            store_target(self.store, key, self.folder, measured)
        return measured

    def _write_l2z(self, final: Model, onnx_path: Path) -> Path | None:
        """The model in one small file where the recipe asks for it; it unpacks to the very ONNX file."""
        if not any(chosen.packs for chosen in self.recipe.passes):
            return None
        path = self.folder / "model.l2z"
        write_atomically(path, pack_file(onnx_path, coded=final.coded))
        return path

    def _artefacts(
        self,
        float_onnx: Path,
        onnx_path: Path,
        packed: Path | None,
        small: Path | None,
        measured: list[Measured],
    ) -> list[ArtefactRecord]:
        files = [(onnx_path, "onnx"), (float_onnx, "onnx-float")]
        files += [(small, "l2z")] if small is not None else []
        files += [(packed, "packed-weights")] if packed is not None else []
        files += [(a.path, a.kind) for m in measured for a in m.artefacts]
        return [
            ArtefactRecord(
                path=path.relative_to(self.folder).as_posix(),
                kind=kind,
                bytes=path.stat().st_size,
                sha256=sha256_file(path),
            )
            for path, kind in files
        ]


def _unavailable(section: TargetSection) -> str | None:
    """Why a device of this machine cannot run anything, None when it can; of others nothing is known before."""
    return TARGETS[section.runtime].unavailable(section.device) if section.here else None


def _facts(section: TargetSection) -> str:
    """What a device of devices.yaml says of itself now: another version there makes other measurements."""
    if not section.name:
        return ""
    try:
        with opened({section.name: section}) as devices:
            facts = devices[section.name].facts()
    except DeviceUnavailableError as error:
        return str(error)
    return str([facts.version, facts.capabilities, facts.machine])


def _is_quantized(model: Model) -> bool:
    """Whether its weights are integers where it runs; codes are multiplied as floats."""
    return model.stored_bytes is not None and not model.coded


def _data_facts(data: DataParts, recipe: Recipe) -> dict[str, Any]:
    parts = [data.train, data.calibration, data.validation, *([data.test] if data.test else [])]
    notes = list(data.notes)
    if data.test is None:
        notes.append(
            "there is no test part: the verdict is on the validation part, which passes may have tuned on"
        )
    return {
        "source": recipe.data.source,
        "manifest": data.manifest,
        "parts": {part.name: len(part) for part in parts},
        "judged_on": data.judge.name,
        "notes": notes,
    }
