"""The steps of `quantize`: equalize, calibrate, correct biases, and give layers back to float."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx

from ...calibration.data import Part
from ...calibration.metric import padded
from ...calibration.ranges import Observer
from ...errors import CompressError
from ...model import Model
from ..base import PassContext
from .attention import softmaxes, too_fine
from .bias_correction import correct_biases, correctable
from .equalize import WORTHWHILE_DB, equalize
from .folding import ensure_biases
from .grids import METHODS, best_grids, grids_for
from .observe import first_output, observe
from .placement import BOTH_ADDENDS, Placement, place
from .quantizers import Grid, insert_quantizers, of_quantizer, weight_scales
from .rebuild import SCALE_PREFIX
from .rescale import find_rescalable
from .sensitivity import LayerSensitivity, fewest_float_layers, measure_sensitivity
from .sqnr import sqnr_db

if TYPE_CHECKING:
    from ..quantize import Quantize

CALIBRATION_BATCH = 16
TRIAL_SAMPLES = 32  # enough to rank two variants by SQNR, few enough to cost seconds


@dataclass(frozen=True)
class State:
    """A calibrated quantization of one graph.

    kept: the layers in float, and why; rescaled: the nodes that equalization gave an operator of their own.
    """

    graph: fx.GraphModule
    quantized: fx.GraphModule
    placement: Placement
    grids: dict[str, Grid]
    scales: dict[str, Tensor]
    kept: Mapping[str, str]
    rescaled: tuple[str, ...]

    def structure(self) -> dict[str, Any]:
        """What `rebuild_graph` needs beside the tensors."""
        return {
            BOTH_ADDENDS: bool(self.graph.meta.get(BOTH_ADDENDS)),
            "keep_float": dict(sorted(self.kept.items())),
            "rescaled": list(self.rescaled),
            "grids": {name: asdict(grid) for name, grid in sorted(self.grids.items())},
        }

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor of the graph, weights in float, and the weights' scales."""
        kept = {
            name: tensor.detach().clone().contiguous()
            for name, tensor in self.quantized.state_dict().items()
            if not of_quantizer(name)
        }
        return kept | {SCALE_PREFIX + name: scale for name, scale in self.scales.items()}


class Steps:
    """The steps of `Quantize.plan`, over one captured graph."""

    def __init__(self, options: Quantize, model: Model, context: PassContext, graph: fx.GraphModule) -> None:
        self.options, self.model, self.context, self.graph = options, model, context, graph
        self.rescaled: tuple[str, ...] = ()
        self.static_batch = None if model.dynamic_batch else int(model.example_inputs[0].shape[0])
        self.trial_samples = max(TRIAL_SAMPLES, self.static_batch or 1)
        available, needed = len(context.data.calibration), self.static_batch or 1
        if available < needed:
            raise CompressError(
                f"quantize: the calibration part has {available} samples, and the network takes {needed} at"
                " once; give it more samples (data.calibration) or set export.dynamic_batch: true"
            )

    def batches(
        self, part: Part, size: int = CALIBRATION_BATCH
    ) -> Callable[[], Iterator[tuple[Tensor, ...]]]:
        """Batches of a data part, as often as asked for; whole ones when the batch is static."""
        size = self.static_batch or size

        def stream() -> Iterator[tuple[Tensor, ...]]:
            for inputs, _ in part.batches(size):
                if self.static_batch is None or inputs[0].shape[0] == size:
                    yield inputs

        return stream

    def first_batch(self, part: Part, samples: int) -> tuple[Tensor, ...]:
        """One batch from the head of a part: `samples` of them, unless the batch is static."""
        return next(self.batches(part, samples)())

    def equalize(self, kept: Mapping[str, str]) -> list[str]:
        """Equalize the graph when told to, or when it makes the outputs more exact; returns notes."""
        if self.options.equalization == "off" or not find_rescalable(self.graph):
            return []
        part, judges = self.context.data.calibration, self._judges()
        fitted = part.between(0, len(part) - len(judges))
        if not len(judges):
            return ["equalization left out: it takes samples to fit it and others to judge it by"]
        graph = copy.deepcopy(self.graph)
        found = equalize(
            graph,
            [c.node for c in place(graph, kept).coverage if c.quantized],
            self.batches(fitted),
            self._trials(fitted),
            self.context.scheme,
            self.context.generator(),
            self.context.progress,
        )
        if not found.tensors:
            return []
        note = f"equalized {len(found.tensors)} tensors"
        if self.options.equalization == "auto":
            before, after = (self._trial_sqnr(g, kept, fitted, judges) for g in (self.graph, graph))
            sqnr = f"SQNR {before:.1f} dB without, {after:.1f} dB with"
            if after < before + WORTHWHILE_DB:
                return [f"equalization tried and left out: {sqnr}"]
            note += f": {sqnr}"
        self.graph, self.rescaled = graph, found.with_operator
        return [note]

    def _judges(self) -> Part:
        """The end of the calibration part, to judge by what was fitted to the rest; empty when there is too little."""
        part, batch = self.context.data.calibration, self.static_batch or 1
        count = min(self.trial_samples, len(part) // 2 // batch * batch)
        return part.between(len(part) - count, len(part))

    def _trials(self, part: Part) -> Callable[[], Iterator[tuple[Tensor, ...]]]:
        """The samples on which variants are compared, one by one unless the batch is static."""
        return self.batches(part.head(self.trial_samples), 1)

    def _trial_sqnr(
        self, graph: fx.GraphModule, kept: Mapping[str, str], fitted: Part, judges: Part
    ) -> float:
        """The SQNR of the outputs for `judges`, against the network as it came, after calibrating on `fitted`."""
        state = self.calibrate(graph, kept, fitted.head(self.trial_samples))
        batch = self.first_batch(judges, len(judges))
        return sqnr_db(first_output(self.graph, batch), first_output(state.quantized, batch))

    def calibrate(self, graph: fx.GraphModule, kept: Mapping[str, str], part: Part) -> State:
        """Observe activations over `part` and put quantizers into a copy of `graph`."""
        graph = copy.deepcopy(graph)
        ensure_biases(graph, correctable(graph, place(graph)))
        placement = place(graph, kept)
        observers = observe(graph, placement.activations, self.batches(part), self.context.progress)
        grids, sqnr = self._grids(graph, observers, part)
        fine = too_fine(graph, placement, sqnr, self.options.softmax_sqnr_db)
        if fine:
            kept = {**kept, **fine}
            placement = place(graph, kept)
            grids = {name: grids[name] for name in placement.activations}
        scales = weight_scales(graph, placement, grids, self.context.scheme.weight_limit)
        quantized = insert_quantizers(graph, placement, grids, scales)
        return State(graph, quantized, placement, grids, scales, kept, self.rescaled)

    def _grids(
        self, graph: fx.GraphModule, observers: Mapping[str, Observer], part: Part
    ) -> tuple[dict[str, Grid], dict[str, float]]:
        """The grids, and what rounding alone leaves the outputs in dB: of all tensors, or at least of softmaxes."""
        scheme, method = self.context.scheme, self.options.ranges
        candidates = [grids_for(observers, m, scheme) for m in (METHODS if method == "auto" else (method,))]
        judged = set(observers)
        if method != "auto":
            fine = {node.name for nodes in softmaxes(graph).values() for node in nodes}
            judged &= fine if self.options.softmax_sqnr_db else set()
        if not judged:
            return candidates[0], {}
        best, sqnr = best_grids(
            graph,
            [{name: grids[name] for name in sorted(judged)} for grids in candidates],
            self._trials(part),
            self.context.generator(),
            self.context.progress,
        )
        return candidates[0] | best, sqnr

    def correct(self, state: State) -> int:
        """Correct biases in place; returns of how many layers."""
        batch = self.first_batch(self.context.data.calibration, 2 * TRIAL_SAMPLES)
        return correct_biases(state.graph, state.quantized, state.placement, batch)

    def rank(self, state: State) -> list[LayerSensitivity]:
        """The layers by their sensitivity, unless neither the report nor max_drop wants it."""
        samples = self.options.sensitivity_samples
        if samples == 0 and self.options.max_drop is None:
            return []
        batch = self.first_batch(self.context.data.calibration, samples or 16)
        return measure_sensitivity(state.quantized, state.placement, batch, self.context.progress)

    def with_float(self, state: State, more: Iterable[str]) -> State:
        """The same ranges, with more layers in float."""
        kept = {**dict.fromkeys(more, "given back to float to meet max_drop"), **state.kept}
        placement = place(state.graph, kept)
        quantized = insert_quantizers(state.graph, placement, state.grids, state.scales)
        grids = {name: state.grids[name] for name in placement.activations}
        scales = {site.tensor: state.scales[site.tensor] for site in placement.weights}
        wider = State(state.graph, quantized, placement, grids, scales, kept, state.rescaled)
        if self.options.bias_correction:
            self.correct(wider)
        return wider

    def meet_drop(
        self, state: State, ranked: list[str], points: float
    ) -> tuple[State, list[dict[str, Any]], list[str]]:
        """Give the fewest layers back to float so that the validation metric falls by at most `points` / 100.

        Returns the new state, a row a layer {layer, drop_if_quantized (a fraction), ms}, and notes.
        """
        validation = self.context.data.validation
        value = self._metric(self.model.module, validation)

        def drop_with(kept: frozenset[str]) -> float:
            self.context.progress.say(f"  max_drop: measuring with {len(kept)} more layers in float")
            return value - self._metric(self.with_float(state, kept).quantized, validation)

        kept, drops = fewest_float_layers(ranked, drop_with, points / 100)
        if not kept:
            return state, [], [f"max_drop: met with every layer in INT8 (n = {len(validation)})"]
        final = self.with_float(state, kept)
        costs = self._costs(state, final, kept)
        rows = [{"layer": n, "drop_if_quantized": drops[n], "ms": costs.get(n)} for n in sorted(kept)]
        return final, rows, [_kept_float_note(n, drops[n], costs.get(n)) for n in sorted(kept)]

    def _metric(self, module: Any, part: Part) -> float:
        def run(*inputs: Tensor) -> tuple[Tensor, ...]:
            with torch.no_grad():
                outputs = module(*inputs)
            return outputs if isinstance(outputs, tuple) else (outputs,)

        forward = padded(run, self.static_batch) if self.static_batch else run
        return self.context.metric.measure(forward, part, batch_size=self.static_batch or 32).value

    def _costs(self, before: State, after: State, kept: frozenset[str]) -> dict[str, float]:
        """Milliseconds that each layer in `kept` takes more in float, on the recipe's first device."""
        if not kept or self.context.layer_ms is None:
            return {}
        slow = self.context.layer_ms(self.model.successor(after.quantized))
        fast = self.context.layer_ms(self.model.successor(before.quantized))
        return {name: slow[name] - fast[name] for name in kept if name in slow and name in fast}


def _kept_float_note(layer: str, drop: float, ms: float | None) -> str:
    cost = "its cost in ms was not measured" if ms is None else f"costs {ms:.3f} ms"
    return f"max_drop: {layer} kept in float (quantized, the drop would be {100 * drop:.2f} points; {cost})"
