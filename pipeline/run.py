"""Run: a recipe from checkpoint to verdict, in the order of the picture in the package's README."""

from __future__ import annotations

import os
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..calibration.data import DataParts
from ..calibration.metric import Metric
from ..errors import DeviceUnavailableError
from ..form import PACKED
from ..model import Model
from ..passes.base import PassContext
from ..progress import Progress, Silent
from ..targets import TARGETS
from ..targets.measuring.machine import cpu_model
from ..writing import writing
from .between import Between, models_between
from .devices.opened import folder_name
from .devices.told import told_by
from .engine_proofs import Candidate
from .environment import code_digest, environment, versions
from .export import export
from .files import sha256_file, write_atomically
from .judge import judge
from .lock import locked
from .measure import Measured, measure_target
from .metric_units import require_share
from .outdated import remove_outdated, require_inputs_kept
from .packing.l2z_file import pack_file
from .packing.low_bit_file import write_packed
from .packing.pruned_file import write_pruned
from .packing.schedule_file import write_schedule
from .prepare import Prepared, unavailable
from .proof.flow import FlowProofs
from .recipe.file import read_recipe, recipe_text_of
from .recipe.sections import Recipe, TargetSection
from .record_file import write_record
from .report.write import write_reports
from .run_record import ArtefactRecord, RunRecord
from .steps import Step, float_step, pass_step
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
        require_inputs_kept(read, base, out)
        kept = Store(store or out / STEPS, shared=store is not None, fresh=fresh)
        run = _Run(Prepared(read, base, trust_pickle, progress), out, kept, remeasure)
        return run.to_verdict(text or read.model_dump_json(indent=1), command)


def describe(recipe: Recipe, base: Path = Path(), trust_pickle: str | None = None) -> dict[str, Any]:
    """What a run would do, without doing it: the facts that `compress run --dry-run` shows."""
    prepared = Prepared(recipe, base, trust_pickle)
    prepared.require_devices()
    prepared.require_files()
    data, model = prepared.read()
    prepared.refuse_impossible(model)
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
        "activations": prepared.scheme.name,
        "passes": [{"name": p.name, **p.model_dump(mode="json")} for p in recipe.passes],
        "targets": [{"target": t.label, "unavailable": unavailable(t)} for t in recipe.targets],
        "budgets": recipe.budgets.model_dump(mode="json", exclude_defaults=True),
    }


@dataclass
class _Run:
    prepared: Prepared
    folder: Path
    store: Store
    remeasure: bool

    def __post_init__(self) -> None:
        self.started = time.monotonic()
        self.recipe, self.progress = self.prepared.recipe, self.prepared.progress
        self.proofs = FlowProofs(self.prepared, self.store, self.remeasure)

    def to_verdict(self, recipe_text: str, command: str) -> RunRecord:
        """The whole flow."""
        started_at = datetime.now(UTC).isoformat(timespec="seconds")
        self.prepared.require_devices()
        self.prepared.require_files()
        remove_outdated(self.folder)
        data, model = self.prepared.read()
        self.prepared.refuse_impossible(model)
        context = self.prepared.context(data, self.store)
        float_onnx = export(model, self.folder / "float.onnx", **self.prepared.export_options)
        shared = self._shared(data, context.metric)
        steps = self._steps(
            model,
            key_of({**shared, "model": sha256_file(float_onnx), "network": _identity(model)}),
            shared,
            context,
        )
        final = steps[-1].model
        self.progress.say("exporting to ONNX and proving it on onnxruntime")
        onnx_path = self._exported(final, steps[-1].key)
        candidate = self.proofs.candidate(steps, model, float_onnx, onnx_path, data, shared)
        measured = self._targets(steps, candidate, context, shared)
        records = [m.record for m in measured]
        artefacts = self._artefacts(steps, float_onnx, onnx_path, measured)
        rows = [step.record for step in steps]
        budgets, verdict, reason = judge(self.recipe.budgets, rows, self.proofs.records, records, artefacts)
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
            proofs=self.proofs.records,
            artefacts=artefacts,
            targets=records,
        )
        write_record(self.folder / "run.json", record)
        write_reports(record, self.folder)
        self._require_devices_kept(record)
        return record

    def _require_devices_kept(self, record: RunRecord) -> None:
        """Raise DeviceUnavailableError for a required target that went away on the way; the record is kept."""
        for section, target in zip(self.recipe.targets, record.targets, strict=True):
            if section.required and target.status == "unavailable":
                raise DeviceUnavailableError(
                    f"{section.label}: {target.reason}; all else is in {self.folder / 'run.json'}"
                )

    def _shared(self, data: DataParts, metric: Metric) -> dict[str, Any]:
        return {
            "data": data.manifest,
            "calibration_samples": len(data.calibration),
            "metric": self.recipe.metric,
            "seed": self.recipe.seed,
            "scheme": asdict(self.prepared.scheme),
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
        key = key_of({"export": self.prepared.export_options, "after": after})
        stored = self.store.get(key)
        if stored is not None and path.is_file() and sha256_file(path) == stored.values.get("sha256"):
            return path
        export(final, path, **self.prepared.export_options)
        self.store.put(key, Entry({"sha256": sha256_file(path)}, {}))
        return path

    def _targets(
        self, steps: list[Step], candidate: Candidate, context: PassContext, shared: dict[str, Any]
    ) -> list[Measured]:
        """What each target makes of the float and the compressed model, and how fast those between passes are there."""
        timed = steps if self.recipe.measure.between else []
        with models_between(timed, self.prepared.export_options, self.folder) as between:
            return [
                self._target(section, candidate, between, context, shared) for section in self.recipe.targets
            ]

    def _target(
        self,
        section: TargetSection,
        candidate: Candidate,
        between: list[Between],
        context: PassContext,
        shared: dict[str, Any],
    ) -> Measured:
        folder = self.folder / ("devices" if section.name else "engines") / folder_name(section.label)
        key = key_of(
            {
                **shared,
                "float": sha256_file(candidate.float_onnx),
                "compressed": sha256_file(candidate.compressed_onnx),
                "between": [each.key for each in between],
                "target": section.model_dump(mode="json"),
                "measure": self.recipe.measure.model_dump(mode="json", exclude={"timeout_s", "memory"}),
                "machine": [
                    cpu_model(),
                    os.cpu_count(),
                    TARGETS[section.runtime].devices() if section.here else "",
                ],
                "unavailable": unavailable(section),
                "told": told_by(section.name, section),
            }
        )
        if not self.remeasure and (stored := stored_target(self.store, key, self.folder)):
            self.progress.say(f"{section.label}: reused with its latencies; --remeasure times it again")
            return stored
        measured = measure_target(section, candidate, context, self.recipe.measure, folder, between)
        if measured.lasting:
            store_target(self.store, key, self.folder, measured)
        return measured

    def _write_l2z(self, final: Model, onnx_path: Path) -> Path | None:
        """The model in one small file where it is made of codes for one; it unpacks to the very ONNX file."""
        if final.form not in PACKED:
            return None
        path = self.folder / "model.l2z"
        write_atomically(path, pack_file(onnx_path, coded=final.coded))
        return path

    def _artefacts(
        self, steps: list[Step], float_onnx: Path, onnx_path: Path, measured: list[Measured]
    ) -> list[ArtefactRecord]:
        """The files of the run; those of weights alone are written here."""
        final, files = steps[-1].model, [(onnx_path, "onnx"), (float_onnx, "onnx-float")]
        if (small := self._write_l2z(final, onnx_path)) is not None:
            files.append((small, "l2z"))
        if (packed := write_packed(final, self.folder / "packed.safetensors")) is not None:
            files.append((packed, "packed-weights"))
        files += write_pruned([step.model for step in steps], self.folder)
        files += write_schedule([step.record.details for step in steps], self.folder)
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


def _identity(model: Model) -> dict[str, Any]:
    """What plans of passes name beside what an ONNX file tells: two networks may be exported to the same bytes."""
    layers = {name: type(layer).__name__ for name, layer in model.module.named_modules()}
    return {"form": model.form.value, "layers": layers, "tensors": list(model.module.state_dict())}


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
