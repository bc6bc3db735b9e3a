"""The phases of `distill`: student, training in float, quantization, training with quantizers, learning points."""

from __future__ import annotations

import copy
from dataclasses import asdict, replace
from typing import Any

from torch import Tensor, fx, nn

from ...errors import CompressError
from ...model import Model
from ..base import PassContext, PassPlan
from ..graph.capture import capture
from ..graph.operators import set_tensor
from ..quantization.bucket_quantizers import LearnedWeights
from ..quantization.channel_fit import fit_channels
from ..quantization.choices import StepOptions
from ..quantization.coverage import coverage_note, coverage_rows, nothing_to_do
from ..quantization.placement import BOTH_ADDENDS, layers_to_keep, place
from ..quantization.quantizers import of_quantizer, weight_quantizers_of
from ..quantization.rebuild import POINTS_PREFIX, WeightSpec
from ..quantization.state import State
from ..quantization.steps import Steps
from ..teaching.task import first_batch
from ..training.options import TrainingOptions
from ..training.stage import Stages
from .graph import grids_of, inserted, scales_of
from .lessons import Lessons
from .low_bits import as_executed, choose_specs, least_scales, sizes_note, start_points
from .objective import Learns
from .options import DistillOptions
from .student import derive, student_of

FIT_SAMPLES, LEAST_FIT_SAMPLES = 128, 16


class Phases:
    """One run of the pass over one model."""

    def __init__(self, options: DistillOptions, model: Model, context: PassContext) -> None:
        self.options, self.model, self.context = options, model, context
        self.limit = context.scheme.weight_limit
        self.least: dict[str, Tensor] = {}
        self.notes: list[str] = []
        self.static_batch = model.static_batch
        self.stages = Stages(options.name, context.data.train, context, self.static_batch)
        self.lessons = Lessons(options, model, context, self.static_batch)

    def plan(self) -> PassPlan:
        """All phases, one after another."""
        student, description = self._student()
        student = self._train_float(student)
        if self.options.weight_bits == "float":
            state = {n: t.detach().clone() for n, t in student.module.state_dict().items()}
            structure = {"student": description, "quantized": None}
            changed = student is not self.model
            notes = self.notes or [
                "the student is the network itself, in float and without epochs: nothing to do"
            ]
            return PassPlan(
                structure if changed else {}, state if changed else {}, changed, tuple(notes), self._details()
            )
        return self._quantized(student, description)

    def _student(self) -> tuple[Model, dict[str, Any]]:
        options = self.options.student
        if options.source or options.same:
            student = student_of(self.model, options, {}, self.context)
            self.lessons.require_like(student, f"distill.student {options.source}".rstrip())
            return student, {}
        derived = derive(self.model, options.depth, options.width)
        self.notes += derived.notes
        return self.model.smaller(derived.module, derived.description), derived.description

    # -- training in float

    def _train_float(self, student: Model) -> Model:
        epochs = self.options.epochs_in_float
        if epochs == 0:
            return student
        if isinstance(student.module, fx.GraphModule):
            raise CompressError(
                "distill: an earlier pass or the exporter made one graph of the network, which has no BatchNorm left"
                " to train in float; set float_epochs: 0"
            )
        network = copy.deepcopy(student.module)
        training = self.options.training.model_copy(update={"epochs": epochs, "lr": self.options.float_lr})
        self._train("float", network, self.model.module, training)
        return student.successor(network.eval(), student.form)

    # -- quantization, and training with it

    def _quantized(self, student: Model, description: dict[str, Any]) -> PassPlan:
        options = self.options
        graph = capture(student)
        graph.meta[BOTH_ADDENDS] = self.context.scheme.both_addends
        kept = layers_to_keep(graph, options.keep_float, options.name)
        if not any(c.quantized for c in place(graph, kept).coverage):
            note = nothing_to_do(place(graph, kept))
            if student is not self.model:
                raise CompressError(
                    f"distill: the student cannot be quantized: {note}; set weight_bits: float"
                )
            return PassPlan({}, {}, modified=False, notes=(note,))
        # Rescaled channels inside a student cannot be compared with the teacher's.
        rescaling = options.equalization if options.student.same or options.features == "off" else "off"
        chosen = StepOptions(options.name, options.ranges, rescaling, bias_correction=False)
        state, notes = Steps(chosen, student, self.context, graph).best(kept)
        self.notes += notes
        if options.activations == "float":
            state = replace(state, placement=replace(state.placement, activations=()), grids={})
        # Once, from the weights as they came: what was trained is what is rebuilt.
        self.least = least_scales(state, self.limit)
        specs = choose_specs(options, state, self.context, self.lessons.task, self.static_batch or 8)
        network = self._train_quantized(state, specs)
        if options.points == "learned":
            network, specs = self._train_points(state, network, specs)
        return self._plan_of(state, network, specs, description)

    def _train_quantized(self, state: State, specs: dict[str, WeightSpec]) -> fx.GraphModule:
        network = inserted(state, specs, {}, self.least, self.limit)
        self._train("quantized", network, self._teacher(state), self.options.training)
        return network

    def _train_points(
        self, state: State, trained: fx.GraphModule, specs: dict[str, WeightSpec]
    ) -> tuple[fx.GraphModule, dict[str, WeightSpec]]:
        """Differentiable quantization: the weights stay, and the points of each learn."""
        options = self.options
        points = start_points(trained, specs, as_trained=options.training.epochs > 0)
        learned = {name: replace(spec, learned=True) for name, spec in specs.items()}
        weights = copy.deepcopy(state.graph)
        for name, tensor in trained.state_dict().items():
            if not of_quantizer(name):
                set_tensor(weights, name, tensor.detach().clone())
        start = replace(
            state, graph=weights, grids=grids_of(trained, state), scales=state.scales | scales_of(trained)
        )
        network = inserted(start, learned, points, self.least, self.limit)
        if options.training.epochs == 0:
            self._fit_channels(state, network)
        training = options.training.model_copy(
            update={"epochs": options.points_epochs, "lr": options.points_lr, "weight_decay": 0.0}
        )
        self._train("points", network, self._teacher(state), training, learns="points")
        return network, learned

    def _fit_channels(self, state: State, network: fx.GraphModule) -> None:
        """Start closer to the float network, whose weights were not trained for so few points."""
        inputs, labels = first_batch(self.context.data.calibration, FIT_SAMPLES, self.static_batch)
        if len(labels) < LEAST_FIT_SAMPLES:
            self.notes.append(
                f"channels not fitted before points learn: that takes {LEAST_FIT_SAMPLES} samples at once"
            )
            return
        fitted = fit_channels(state.graph, network, state.placement, inputs)
        self.notes.append(
            f"before points learn, the channels of {fitted} layers were fitted to their float outputs"
        )

    def _teacher(self, state: State) -> nn.Module:
        """The float network; for the network itself its own equalized graph, whose features have the same scales."""
        return copy.deepcopy(state.graph) if self.options.student.same else self.model.module

    def _train(
        self,
        phase: str,
        network: nn.Module,
        teacher: nn.Module,
        training: TrainingOptions,
        learns: Learns = "weights",
    ) -> None:
        objective, notes = self.lessons.objective(network, teacher, learns)
        self.notes += notes
        self.notes += self.stages.train(phase, objective, training, judged=objective.outputs)

    def _plan_of(
        self, state: State, network: fx.GraphModule, specs: dict[str, WeightSpec], description: dict[str, Any]
    ) -> PassPlan:
        float_activations = self.options.activations == "float"
        scales = scales_of(network) | {name: self.least[name] for name in specs}
        final = replace(state, quantized=network, grids=grids_of(network, state), scales=scales)
        structure = {
            **final.structure(),
            "float_activations": float_activations,
            "weight_limit": self.limit,
            "weights": {name: asdict(spec) for name, spec in sorted(specs.items())},
        }
        points = {
            POINTS_PREFIX + name: quantizer.points.detach().clone()
            for name, quantizer in weight_quantizers_of(network).items()
            if isinstance(quantizer, LearnedWeights)
        }
        placement = as_executed(state.placement, specs, float_activations)
        notes = [coverage_note(placement, self.context.scheme.name), *self.notes, *sizes_note(network)]
        details = self._details() | {"coverage": coverage_rows(placement)}
        whole = {"student": description, "quantized": structure}
        return PassPlan(whole, final.tensors() | points, notes=tuple(notes), details=details)

    def _details(self) -> dict[str, Any]:
        return {"training": self.stages.histories} if self.stages.histories else {}
