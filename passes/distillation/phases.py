"""The phases of `distill`: student, training in float, quantization, training with quantizers, learning points."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx, nn

from ...calibration.metric import padded
from ...errors import CompressError
from ...model import Model
from ..base import PassContext, PassPlan
from ..graph.capture import capture
from ..graph.operators import set_tensor
from ..quantization.bucket_quantizers import LearnedWeights
from ..quantization.channel_fit import fit_channels
from ..quantization.coverage import coverage_note, coverage_rows, nothing_to_do
from ..quantization.placement import BOTH_ADDENDS, layers_to_keep, place
from ..quantization.quantizers import of_quantizer, weight_quantizers_of
from ..quantization.rebuild import POINTS_PREFIX, WeightSpec
from ..quantization.state import State
from ..quantization.steps import StepOptions, Steps
from ..teaching.features import pair
from ..teaching.taps import Tapped, frozen
from ..teaching.task import read_task, require_like
from ..training.job import History, Job
from ..training.loop import train
from ..training.options import BUILT_IN, TrainingOptions
from ..training.parallel import require_static_batch
from .graph import grids_of, inserted, scales_of
from .low_bits import as_executed, choose_specs, least_scales, sizes_note, start_points
from .objective import Distillation, Learns, Teacher
from .options import DistillOptions
from .student import derive, rederive

TASK_SAMPLES = 64
FIT_SAMPLES, LEAST_FIT_SAMPLES = 128, 16
RANGE_LR = {"weights": 10.0, "points": 0.1}
"""Activation ranges move by up to so many learning rates of their own size a step, beside weights or points, whose
rates differ as much: by 0.1 % at their defaults."""


def student_of(
    options: DistillOptions, model: Model, description: Mapping[str, Any], context: PassContext
) -> Model:
    """The student as `description` says: the model itself, one derived from it, or one by its factory."""
    if options.student.source:
        if context.load_network is None:
            raise CompressError("distill.student: a student with a source needs a context that can load it")
        return replace(context.load_network(options.student), original=model.float_original, onnx_path=None)
    if options.student.same:
        return model
    return model.successor(rederive(model, dict(description)))


class Phases:
    """One run of the pass over one model."""

    def __init__(self, options: DistillOptions, model: Model, context: PassContext) -> None:
        self.options, self.model, self.context = options, model, context
        self.limit = context.scheme.weight_limit
        self.least: dict[str, Tensor] = {}
        self.notes: list[str] = []
        self.histories: dict[str, Any] = {}
        self.static_batch = None if model.dynamic_batch else int(model.example_inputs[0].shape[0])
        inputs, labels = self._first_samples(TASK_SAMPLES)
        self.outputs = model.run(*inputs)
        self.task = read_task(self.outputs, labels, labels_used=options.teacher_weight < 1)
        self.inputs = inputs

    def _first_samples(self, most: int) -> tuple[tuple[Tensor, ...], Tensor]:
        """At most so many calibration samples as one batch, inputs and labels; a static batch is always whole."""
        part = self.context.data.calibration
        return part.batch(range(self.static_batch or min(most, len(part))))

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
            student = student_of(self.options, self.model, {}, self.context)
            require_like(
                student.run(*self.inputs), self.outputs, f"distill.student {options.source}".rstrip()
            )
            return student, {}
        derived = derive(self.model, options.depth, options.width)
        self.notes += derived.notes
        return self.model.successor(derived.module), derived.description

    # -- training in float

    def _train_float(self, student: Model) -> Model:
        epochs = self._float_epochs()
        if epochs == 0:
            return student
        if isinstance(student.module, fx.GraphModule):
            raise CompressError(
                "distill: an earlier pass or the exporter made one graph of the network, which has no BatchNorm left"
                " to train in float; set float_epochs: 0"
            )
        network = copy.deepcopy(student.module)
        objective = self._objective(network, self.model.module, live=True)
        training = self.options.training.model_copy(update={"epochs": epochs, "lr": self.options.float_lr})
        self._train("float", objective, training)
        return student.successor(network.eval())

    def _float_epochs(self) -> int:
        options = self.options
        if options.float_epochs is not None:
            return options.float_epochs
        return options.training.epochs if not options.student.same or not options.quantizes else 0

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
        specs = choose_specs(options, state, self.context, self.task, self.static_batch or 8)
        network = self._train_quantized(state, specs)
        if options.points == "learned":
            network, specs = self._train_points(state, network, specs)
        return self._plan_of(state, network, specs, description)

    def _train_quantized(self, state: State, specs: dict[str, WeightSpec]) -> fx.GraphModule:
        network = inserted(state, specs, {}, self.least, self.limit)
        self._train("quantized", self._objective(network, self._teacher(state)), self.options.training)
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
        self._train("points", self._objective(network, self._teacher(state), learns="points"), training)
        return network, learned

    def _fit_channels(self, state: State, network: fx.GraphModule) -> None:
        """Start closer to the float network, whose weights were not trained for so few points."""
        inputs, labels = self._first_samples(FIT_SAMPLES)
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

    @cached_property
    def further_teachers(self) -> list[Teacher]:
        """The teachers beside the network itself, read once for all phases."""
        found = []
        for source in self.options.teachers:
            assert self.context.load_network is not None
            further = self.context.load_network(source)
            require_like(further.run(*self.inputs), self.outputs, f"distill.teachers: {source.source}")
            found.append(Teacher(frozen(further.module, []), source.weight))
        return found

    def _objective(
        self, network: nn.Module, teacher: nn.Module, *, live: bool = False, learns: Learns = "weights"
    ) -> Distillation:
        options = self.options
        example, _ = self._first_samples(1)
        ours: list[str] = []
        theirs: list[str] = []
        if options.features != "off":
            asked = None if options.features == "auto" else options.features
            ours, theirs = pair(network, teacher, example, asked, options.name)
            self.notes.append(
                "features matched: " + ", ".join(f"{s} to {t}" for s, t in zip(ours, theirs, strict=True))
            )
        return Distillation(
            network=Tapped(network, ours),
            teachers=[Teacher(frozen(teacher, theirs)), *self.further_teachers],
            temperature=options.temperature,
            teacher_weight=options.teacher_weight,
            teacher_dropping=options.teacher_dropping,
            feature_weight=options.feature_weight,
            task=self.task,
            stochastic=options.rounding == "stochastic",
            learns=learns,
            range_lr=RANGE_LR[learns] if options.learn_ranges and not live else 0.0,
            live=live,
        )

    def _train(self, phase: str, objective: Distillation, training: TrainingOptions) -> None:
        context = self.context
        if training.epochs and not len(context.data.train):
            raise CompressError(
                "distill: it trains on the train part of the data, and there is none; give the data one (a part named"
                " train, or data.split), or set training.epochs: 0"
            )
        require_static_batch("distill", training, self.static_batch)
        _, label = context.data.calibration.samples[0]
        if label.dim() > 1 and (moved := [name for name in training.augment if name in BUILT_IN]):
            raise CompressError(
                f"distill: training.augment {', '.join(moved)} moves images and not their labels, which are maps here;"
                " leave it out, or let the train part of the data change both"
            )
        job = Job(
            f"distill, {phase}",
            objective,
            context.data.train,
            training,
            context.seed,
            context.device,
            context.folder,
        )

        def evaluate() -> tuple[float, float]:
            device = next(objective.network.parameters()).device

            def run(*inputs: Tensor) -> tuple[Tensor, ...]:
                with torch.no_grad():
                    outputs, _ = objective.network(*(x.to(device) for x in inputs))
                return tuple(y.cpu() for y in outputs)

            forward = padded(run, self.static_batch) if self.static_batch else run
            measured = context.metric.measure(forward, context.data.validation, self.static_batch or 32)
            low, high = measured.ci95
            return measured.value, (high - low) / (2 * 1.96)

        checkpoint = context.scratch / f"{phase}.safetensors" if context.scratch is not None else None
        history = train(job, evaluate, checkpoint, context.progress)
        if history.epochs:
            self.histories[phase] = asdict(history)
            self.notes.append(
                _history_note(phase, history, context.metric.name, len(context.data.validation))
            )

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
        return {"training": self.histories} if self.histories else {}


def _history_note(phase: str, history: History, metric: str, samples: int) -> str:
    first, last = history.epochs[0], history.epochs[-1]
    kept = last if history.best is None else history.epochs[history.best]
    which = f"epoch {int(kept['epoch'])} of {len(history.epochs) - 1} kept"
    stopped = ", stopped early" if history.stopped_early else ""
    return (
        f"trained, {phase}: {which}{stopped}; {metric} {first['metric']:.4f} before, {kept['metric']:.4f} after"
        f" ({samples} validation samples)"
    )
