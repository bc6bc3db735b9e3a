"""`quantize`: post-training INT8 quantization of any network that can be captured as one graph."""

from __future__ import annotations

import copy
import fnmatch
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from ..calibration.ranges import RangeMethod
from ..errors import CompressError
from .base import Pass, PassContext, PassPlan

if TYPE_CHECKING:
    from torch import Tensor, fx

    from ..model import Model
    from .quantization.placement import Placement
    from .quantization.quantizers import Grid

CALIBRATION_BATCH = 16
TRIAL_SAMPLES = 32  # enough to rank two variants by SQNR, few enough to cost seconds
EQUALIZATION_GAIN_DB = 0.5  # less is within what another choice of samples would change


class Quantize(Pass):
    """Post-training INT8: weights per channel, activations on the grid that every target of the recipe accepts."""

    name: ClassVar[str] = "quantize"

    ranges: RangeMethod = Field(
        "mse", description="How activation ranges are chosen from the calibration histograms."
    )
    equalization: Literal["auto", "on", "off"] = Field(
        "auto",
        description="Even out channels between layers, and smooth after LayerNorm; auto keeps it where the outputs' SQNR gains.",
    )
    bias_correction: bool = Field(True, description="Take the mean shift of rounded weights out of the biases.")
    keep_float: tuple[str, ...] = Field(
        (), description="Layers to leave in float, by name or pattern (`head`, `blocks.0.*`)."
    )
    max_drop: float | None = Field(
        None,
        ge=0,
        le=100,
        description="Largest loss of the metric in points (0.5 = half a point): the fewest layers go back to float to meet it.",
    )
    sensitivity_samples: int = Field(
        16, ge=0, le=1024, description="Samples for the sensitivity of each layer; 0 leaves the table out."
    )

    def plan(self, model: Model, context: PassContext) -> PassPlan:
        """Capture, equalize where it helps, calibrate, correct biases, and give layers back to float if asked."""
        from .quantization.capture import capture
        from .quantization.placement import place

        graph = capture(model)
        kept = self._kept(graph)
        if not place(graph, kept).weights:
            return PassPlan({}, {}, modified=False, notes=("no convolution, linear layer or matmul to quantize",))
        work = _Work(self, model, context, graph)
        notes = work.equalize(kept)
        state = work.calibrate(work.graph, kept, context.data.calibration)
        if self.bias_correction:
            notes.append(f"bias correction: {work.correct(state)} layers")
        details: dict[str, Any] = {}
        ranked = work.rank(state)
        if ranked:
            details["sensitivity"] = [asdict(r) for r in ranked]
        if self.max_drop is not None:
            state, found = work.meet_drop(state, [r.layer for r in ranked])
            notes += found.pop("notes")
            details |= found
        details["coverage"] = [
            {"layer": c.layer, "kind": c.kind, "macs": c.macs, "quantized": c.quantized, "reason": c.reason}
            for c in state.placement.coverage
        ]
        notes.insert(0, _coverage_note(state.placement, context.scheme.name))
        return PassPlan(state.structure(), state.tensors(), notes=tuple(notes), details=details)

    def rebuild(self, model: Model, plan: PassPlan) -> Model:
        """The quantized graph: the capture of `model`, with the plan's tensors and quantizers in it."""
        from .quantization.bias_correction import correctable
        from .quantization.capture import capture, ensure_biases, set_tensor
        from .quantization.placement import place
        from .quantization.quantizers import Grid, insert_quantizers, stored_bytes

        graph = capture(model)
        ensure_biases(graph, correctable(graph, place(graph)))
        for name, tensor in plan.tensors.items():
            if not name.startswith(SCALE_PREFIX):
                set_tensor(graph, name, tensor.clone())
        placement = place(graph, plan.structure["keep_float"])
        grids = {name: Grid(**grid) for name, grid in plan.structure["grids"].items()}
        scales = {n.removeprefix(SCALE_PREFIX): t for n, t in plan.tensors.items() if n.startswith(SCALE_PREFIX)}
        quantized = insert_quantizers(graph, placement, grids, scales)
        return model.successor(quantized, stored_bytes=stored_bytes(quantized, placement.weights))

    def _kept(self, graph: fx.GraphModule) -> frozenset[str]:
        from .quantization.placement import layer_name, layers_of

        names = [layer_name(n) for n in layers_of(graph)]
        kept: set[str] = set()
        for pattern in self.keep_float:
            matched = fnmatch.filter(names, pattern)
            if not matched:
                raise CompressError(
                    f"quantize.keep_float: no layer is named '{pattern}'. Layers: {', '.join(names[:8])}"
                    + (f", … ({len(names)} in all; `compress inspect` lists them)" if len(names) > 8 else "")
                )
            kept.update(matched)
        return frozenset(kept)


SCALE_PREFIX = "scale/"


@dataclass(frozen=True)
class _State:
    """A calibrated quantization of one graph."""

    graph: fx.GraphModule
    quantized: fx.GraphModule
    placement: Placement
    grids: dict[str, Grid]
    scales: dict[str, Tensor]
    kept: frozenset[str]

    def structure(self) -> dict[str, Any]:
        return {
            "keep_float": sorted(self.kept),
            "grids": {name: asdict(grid) for name, grid in sorted(self.grids.items())},
        }

    def tensors(self) -> dict[str, Tensor]:
        kept = {
            name: tensor.detach().clone().contiguous()
            for name, tensor in self.quantized.state_dict().items()
            if "_quantizer_" not in name
        }
        return kept | {SCALE_PREFIX + name: scale for name, scale in self.scales.items()}


class _Work:
    """The steps of `Quantize.plan`, over one captured graph."""

    def __init__(self, options: Quantize, model: Model, context: PassContext, graph: fx.GraphModule) -> None:
        self.options, self.model, self.context, self.graph = options, model, context, graph

    def batches(self, part: Any) -> Callable[[], Iterator[tuple[Tensor, ...]]]:
        """Input batches of a data part, as often as they are asked for; whole batches when the batch is static."""
        size = CALIBRATION_BATCH if self.model.dynamic_batch else self.model.example_inputs[0].shape[0]

        def stream() -> Iterator[tuple[Tensor, ...]]:
            for inputs, _ in part.batches(size):
                if self.model.dynamic_batch or inputs[0].shape[0] == size:
                    yield inputs

        return stream

    def trial_batch(self, samples: int) -> tuple[Tensor, ...]:
        """One batch from the head of the calibration part."""
        size = samples if self.model.dynamic_batch else self.model.example_inputs[0].shape[0]
        inputs, _ = next(iter(self.context.data.calibration.head(size).batches(size)))
        return inputs

    def equalize(self, kept: frozenset[str]) -> list[str]:
        """Equalize the graph when told to, or when it makes the outputs more exact; returns notes."""
        from .quantization.equalize import equalize, find_pairs

        if self.options.equalization == "off" or not find_pairs(self.graph):
            return []
        part = self.context.data.calibration.head(TRIAL_SAMPLES)
        evened = copy.deepcopy(self.graph)
        names = equalize(evened, self.batches(part), self.context.progress)
        if self.options.equalization == "auto":
            before, after = (self._trial_sqnr(g, kept) for g in (self.graph, evened))
            if after < before + EQUALIZATION_GAIN_DB:
                return [f"equalization tried and left out: SQNR {before:.1f} dB without, {after:.1f} dB with"]
            self.graph = evened
            return [f"equalized {len(names)} tensors: SQNR {before:.1f} dB without, {after:.1f} dB with"]
        self.graph = evened
        return [f"equalized {len(names)} tensors"]

    def _trial_sqnr(self, graph: fx.GraphModule, kept: frozenset[str]) -> float:
        import torch

        from .quantization.sensitivity import sqnr_db

        part = self.context.data.calibration.head(TRIAL_SAMPLES)
        state = self.calibrate(graph, kept, part)
        batch = self.trial_batch(TRIAL_SAMPLES)
        with torch.no_grad():
            return sqnr_db(_first(state.graph(*batch)), _first(state.quantized(*batch)))

    def calibrate(self, graph: fx.GraphModule, kept: frozenset[str], part: Any) -> _State:
        """Observe activations over `part` and put quantizers into a copy of `graph`."""
        from .quantization.bias_correction import correctable
        from .quantization.capture import ensure_biases
        from .quantization.observe import grids_for, observe
        from .quantization.placement import place
        from .quantization.quantizers import float_weight, insert_quantizers, weight_scale

        graph = copy.deepcopy(graph)
        ensure_biases(graph, correctable(graph, place(graph)))
        placement = place(graph, kept)
        observers = observe(graph, placement.groups, self.batches(part), self.context.progress)
        chosen = grids_for(observers, self.options.ranges, self.context.scheme)
        grids = {name: chosen[group[0]] for group in placement.groups for name in group}
        scales = {s.tensor: weight_scale(float_weight(graph, s), s.axis) for s in placement.weights}
        quantized = insert_quantizers(graph, placement, grids, scales)
        return _State(graph, quantized, placement, grids, scales, kept)

    def correct(self, state: _State) -> int:
        from .quantization.bias_correction import correct_biases

        batch = self.trial_batch(2 * TRIAL_SAMPLES)
        return correct_biases(state.graph, state.quantized, state.placement, batch)

    def rank(self, state: _State) -> list[Any]:
        from .quantization.sensitivity import measure_sensitivity

        samples = self.options.sensitivity_samples
        if samples == 0 and self.options.max_drop is None:
            return []
        batch = self.trial_batch(samples or 16)
        return measure_sensitivity(state.quantized, state.placement, batch, self.context.progress)

    def with_float(self, state: _State, kept: frozenset[str]) -> _State:
        """The same ranges, with more layers in float."""
        from .quantization.bias_correction import correct_biases
        from .quantization.placement import place
        from .quantization.quantizers import insert_quantizers

        placement = place(state.graph, kept)
        quantized = insert_quantizers(state.graph, placement, state.grids, state.scales)
        grids = {name: state.grids[name] for group in placement.groups for name in group}
        scales = {site.tensor: state.scales[site.tensor] for site in placement.weights}
        if self.options.bias_correction:
            correct_biases(state.graph, quantized, placement, self.trial_batch(2 * TRIAL_SAMPLES))
        return _State(state.graph, quantized, placement, grids, scales, kept)

    def meet_drop(self, state: _State, ranked: list[str]) -> tuple[_State, dict[str, Any]]:
        """Give the fewest layers back to float so that the metric on the validation part falls by at most max_drop."""
        from .quantization.sensitivity import fewest_float_layers

        assert self.options.max_drop is not None
        limit = self.options.max_drop / 100
        validation = self.context.data.validation
        value = self._metric(self.model.module, validation)

        def drop_with(kept: frozenset[str]) -> float:
            self.context.progress.say(f"  max_drop: measuring with {len(kept)} more layers in float")
            return value - self._metric(self.with_float(state, state.kept | kept).quantized, validation)

        kept, drops = fewest_float_layers(ranked, drop_with, limit)
        final = self.with_float(state, state.kept | kept) if kept else state
        costs = self._costs(state, final, kept)
        rows = [{"layer": n, "drop_if_quantized": drops[n], "ms": costs.get(n)} for n in sorted(kept)]
        if not kept:
            return state, {"notes": [f"max_drop: met with every layer in INT8 (n = {len(validation)})"]}
        notes = [
            f"max_drop: {r['layer']} kept in float"
            + f" (quantized, the drop would be {100 * drops[str(r['layer'])]:.2f} points"
            + (f"; costs {r['ms']:.3f} ms)" if r["ms"] is not None else "; its cost in ms was not measured)")
            for r in rows
        ]
        return final, {"notes": notes, "kept_float": rows}

    def _metric(self, module: Any, part: Any) -> float:
        import torch

        def forward(*inputs: Tensor) -> tuple[Tensor, ...]:
            with torch.no_grad():
                outputs = module(*inputs)
            return outputs if isinstance(outputs, tuple) else (outputs,)

        size = 32 if self.model.dynamic_batch else self.model.example_inputs[0].shape[0]
        return self.context.metric.measure(forward, part, batch_size=size).value

    def _costs(self, before: _State, after: _State, kept: frozenset[str]) -> dict[str, float]:
        """Milliseconds that each layer in `kept` takes more in float than in INT8, on the recipe's first device."""
        if not kept or self.context.layer_ms is None:
            return {}
        slow = self.context.layer_ms(self.model.successor(after.quantized))
        fast = self.context.layer_ms(self.model.successor(before.quantized))
        return {name: slow[name] - fast[name] for name in kept if name in slow and name in fast}


def _coverage_note(placement: Placement, grid: str) -> str:
    quantized = sum(c.quantized for c in placement.coverage)
    return (
        f"{quantized} of {len(placement.coverage)} layers, {100 * placement.int8_macs:.1f} % of MACs in INT8; "
        f"activations {grid}"
    )


def _first(outputs: Any) -> Any:
    return outputs[0] if isinstance(outputs, tuple) else outputs
