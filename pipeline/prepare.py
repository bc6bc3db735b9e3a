"""A recipe opened: its data, its model, and the context that passes work in, as a run, a gate or a description need."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from pathlib import Path

import torch
from torch import Tensor

from ..calibration.data import DataParts
from ..calibration.latency_table import LatencyTable
from ..calibration.metric import metric_named
from ..calibration.named import is_callable_name
from ..calibration.scheme import QuantScheme, intersect
from ..calibration.sources import load_data
from ..calibration.times import Times
from ..calibration.typed import data_in_types
from ..errors import CompressError, DeviceUnavailableError
from ..form import QUANTIZED, Form
from ..isolated import Limits
from ..model import Model
from ..passes.base import NetworkSource, PassContext
from ..passes.distill import Distill
from ..passes.order import order_problem
from ..passes.quantize import Quantize
from ..progress import Progress, Silent
from ..targets import TARGETS
from .devices.opened import require_reached
from .devices.scheme import scheme_of
from .devices.told import machine_of, told_by
from .export import export
from .ingest.model import ingest
from .launch_inputs import require_samples
from .measure import layer_times, limits_of, require_batch
from .onnx_files.inputs import NOTHING, GivenShapes
from .onnx_files.network import why_no_pass
from .packing.weighing import Weighing
from .recipe.sections import ModelSection, Recipe, TargetSection
from .store import Store, key_of
from .tabulate.bench import TabulatePlan
from .tabulate.kept import TABLE, kept_table
from .tabulate.kept_times import kept_times
from .tabulate.run import tabulate


@dataclass(frozen=True)
class Prepared:
    """A recipe with all that is needed to open what it names. base: the folder that its names are relative to."""

    recipe: Recipe
    base: Path = Path()
    trust_pickle: str | None = None
    progress: Progress = field(default_factory=Silent)

    @cached_property
    def scheme(self) -> QuantScheme:
        """The grids that every target accepts; devices over SSH are asked for theirs, once."""
        return intersect(scheme_of(t.label, t) for t in self.recipe.targets)

    @property
    def export_options(self) -> dict[str, int]:
        """The options of the export section, as `export` takes them."""
        return {"opset": self.recipe.export.opset, "ir_version": self.recipe.export.ir_version}

    def data(self) -> DataParts:
        """The samples, as their source has them."""
        section = self.recipe.data
        self.progress.say("reading the data")
        return load_data(
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

    def read(self) -> tuple[DataParts, Model]:
        """The data and the float model that the recipe names."""
        data, measured = self.data(), self.recipe.measure
        require_samples(measured.samples or 1, data.judge, measured.batch, "measure.samples")
        self.progress.say("reading the model")
        example = data.calibration.example()
        model = ingest(
            self.recipe.model, example, self.trust_pickle, folder=self.base, progress=self.progress
        )
        if not self.recipe.export.dynamic_batch:
            model = model.with_static_batch()
        require_batch(model, measured)
        types = [x.dtype for x in model.example_inputs]
        return data_in_types(data, types, model.input_names), model

    def network(self, given: GivenShapes = NOTHING) -> Model:
        """The float model alone, without the data. given: shapes that a user states; without them `example` tells."""
        example = None if given else self.example()
        self.progress.say("reading the model")
        model = ingest(
            self.recipe.model,
            example,
            self.trust_pickle,
            folder=self.base,
            progress=self.progress,
            given=given,
        )
        return model if self.recipe.export.dynamic_batch else model.with_static_batch()

    def example(self) -> tuple[Tensor, ...] | None:
        """The first sample of the data, where nothing else says what the network takes."""
        section = self.recipe.model
        knows_itself = not is_callable_name(section.source) or section.source.startswith(
            ("timm:", "torchvision:")
        )
        if section.input_shape is not None or knows_itself:
            return None
        try:
            return self.data().calibration.example()
        except CompressError as error:
            hint = "or state by model.input_shape, or --input-shape, what the network takes"
            raise CompressError(f"{error}; {hint}") from error

    @property
    def limits(self) -> Limits:
        """What an engine's process may take."""
        return limits_of(self.recipe.measure)

    @cached_property
    def tabulate_plan(self) -> TabulatePlan:
        """How a table of latencies is measured: of networks as this recipe's passes leave them."""
        form, kept, softmax = Form.MODULES, tuple[str, ...](), Quantize().softmax_sqnr_db
        for chosen in self.recipe.passes:
            form = chosen.leaves(form) if form in chosen.takes else form
            kept += chosen.keep_float if isinstance(chosen, (Quantize, Distill)) else ()
            softmax = chosen.softmax_sqnr_db if isinstance(chosen, Quantize) else softmax
        return TabulatePlan(
            precision="int8" if form in QUANTIZED else "float",
            scheme=self.scheme,
            keep_float=kept,
            softmax_sqnr_db=softmax,
            batch=self.recipe.measure.batch,
            export_options=self.export_options,
        )

    def context(self, data: DataParts, store: Store | None = None) -> PassContext:
        """What passes are told, beside the model: data, which another process takes as well.

        store: keeps what is measured for them.
        """
        return PassContext(
            data=data,
            metric=metric_named(self.recipe.metric, self.base),
            scheme=self.scheme,
            seed=self.recipe.seed,
            progress=self.progress,
            device="cuda" if torch.cuda.is_available() else "cpu",
            layer_ms=self._layer_ms,
            latency_table=partial(self._latency_table, store),
            times=partial(self._times, store),
            measured_on=self._measured_on(),
            ends_in=self.tabulate_plan.precision,
            batch=self.tabulate_plan.batch,
            machines={section.label: machine_of(section) for section in self.recipe.targets},
            load_network=partial(self._load_network, data),
            packed_bytes=Weighing(**self.export_options),
            folder=self.base,
        )

    def _load_network(self, data: DataParts, source: NetworkSource) -> Model:
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
        section = next((s for s in self.recipe.targets if s.here and unavailable(s) is None), None)
        if section is None:
            return {}
        with tempfile.TemporaryDirectory() as folder:
            path = export(model, Path(folder) / "model.onnx", **self.export_options)
            try:
                return layer_times(path, section, model, Path(folder), self.limits)
            except CompressError as error:  # a report without these times is no reason to lose a pass
                self.progress.say(f"{section.label}: layers were not timed: {error}")
                return {}

    @cached_property
    def _measured_section(self) -> TargetSection | None:
        return next((s for s in self.recipe.targets if not s.here or unavailable(s) is None), None)

    def _measured_on(self) -> str:
        """The device that layers are timed on for a pass, and how they are; asked for only where one wants it."""
        section = self._measured_section if any(p.measures_latency() for p in self.recipe.passes) else None
        if section is None:
            return ""
        told, plan = told_by(section.name, section), asdict(self.tabulate_plan)
        return key_of({"target": section.model_dump(mode="json"), "told": told, "plan": plan})

    def _latency_table(self, store: Store | None, model: Model) -> LatencyTable:
        """What the layers of a network take on the first device of the recipe that can be measured on."""
        plan, devices = self.tabulate_plan, self._measured_device("latencies of layers take")
        if store is not None:
            return kept_table(store, model, devices, plan, self.progress, self.limits)
        with tempfile.TemporaryDirectory() as folder:
            return tabulate(model, devices, Path(folder) / TABLE, plan, self.progress, self.limits)

    def _times(self, store: Store | None, model: Model, others: Sequence[Model]) -> list[Times]:
        """What networks made of a model take on that device, in turns with it."""
        devices = self._measured_device("a target in milliseconds takes")
        return kept_times(store, model, others, devices, self.tabulate_plan, self.progress, self.limits)

    def _measured_device(self, what: str) -> dict[str, TargetSection]:
        section = self._measured_section
        if section is None:
            raise DeviceUnavailableError(
                f"targets: none of them can be measured on, which {what}; `compress doctor` lists what is here"
            )
        return {section.label: section}

    def refuse_impossible(self, model: Model) -> None:
        """Say before any work which pass cannot work on what it will be given, and a metric that is not there."""
        metric_named(self.recipe.metric, self.base)
        passes = self.recipe.passes
        for index, chosen in enumerate(passes):
            reason = why_no_pass(model.module) or order_problem(chosen, passes[:index], model.form)
            if not reason and index == 0:  # a later one is given another network
                reason = chosen.why_not(model)
            if reason:
                raise CompressError(f"pass {chosen.name}: {reason}")
            if chosen.measures_latency() and self._measured_section is None:
                raise DeviceUnavailableError(
                    f"pass {chosen.name}: cost: latency is measured on one of the recipe's targets, and none of them"
                    " can be measured on here; name one that can (`compress doctor` lists what is here), or take"
                    " another cost"
                )

    def require_files(self) -> None:
        """CompressError for a file of a pass's options that is not there or of no use."""
        for chosen in self.recipe.passes:
            chosen.require_files(self.recipe.measure.batch)

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


def unavailable(section: TargetSection) -> str | None:
    """Why a device of this machine cannot run anything, None when it can; of others nothing is known before."""
    return TARGETS[section.runtime].unavailable(section.device) if section.here else None
