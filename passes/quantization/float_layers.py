"""Give layers back to float: which cost most, and the fewest whose return keeps the metric's fall in bounds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ...calibration.data import Part
from ...form import Form
from ...model import Model
from .placement import place
from .quantizers import insert_quantizers
from .sensitivity import LayerSensitivity, fewest_float_layers, measure_sensitivity
from .state import State
from .steps import Steps

VALIDATION_BATCH = 32


class FloatLayers:
    """What `Quantize.plan` asks of a finished state about single layers, by the steps that made it."""

    def __init__(self, steps: Steps) -> None:
        self.steps, self.context = steps, steps.context
        self.model = steps.model

    def rank(self, state: State, samples: int) -> list[LayerSensitivity]:
        """The layers by their sensitivity on so many samples, the most sensitive first."""
        batch = self.steps.first_batch(self.context.data.calibration, samples)
        return measure_sensitivity(state.quantized, state.placement, batch, self.context.progress)

    def with_float(self, state: State, more: Iterable[str]) -> State:
        """The same ranges, with more layers in float."""
        kept = {**dict.fromkeys(more, "given back to float to meet max_drop"), **state.kept}
        placement = place(state.graph, kept)
        quantized = insert_quantizers(state.graph, placement, state.grids, state.scales)
        grids = {name: state.grids[name] for name in placement.activations}
        scales = {site.tensor: state.scales[site.tensor] for site in placement.weights}
        wider = State(state.graph, quantized, placement, grids, scales, kept, state.rescaled)
        if self.steps.bias:
            self.steps.correct(wider, self.steps.bias)
        return wider

    def meet_drop(
        self, state: State, ranked: list[str], points: float
    ) -> tuple[State, list[dict[str, Any]], list[str]]:
        """Give the fewest layers back to float so that the validation metric falls by at most `points` / 100.

        Returns the new state, a row a layer {layer, drop_if_quantized (a fraction), ms}, and notes.
        """
        validation = self.context.data.validation
        value = self._metric(self.model, validation)

        def drop_with(kept: frozenset[str]) -> float:
            self.context.progress.say(f"  max_drop: measuring with {len(kept)} more layers in float")
            return value - self._metric(self._quantized(self.with_float(state, kept)), validation)

        kept, drops = fewest_float_layers(ranked, drop_with, points / 100)
        if not kept:
            return state, [], [f"max_drop: met with every layer in INT8 (n = {len(validation)})"]
        final = self.with_float(state, kept)
        costs = self._costs(state, final, kept)
        rows = [{"layer": n, "drop_if_quantized": drops[n], "ms": costs.get(n)} for n in sorted(kept)]
        return final, rows, [_kept_float_note(n, drops[n], costs.get(n)) for n in sorted(kept)]

    def _quantized(self, state: State) -> Model:
        return self.model.successor(state.quantized, Form.INT8)

    def _metric(self, model: Model, part: Part) -> float:
        forward, batch = model.in_batches(VALIDATION_BATCH)
        return self.context.metric.measure(forward, part, batch_size=batch).record.value

    def _costs(self, before: State, after: State, kept: frozenset[str]) -> dict[str, float]:
        """Milliseconds that each layer in `kept` takes more in float, on the recipe's first device."""
        if not kept or self.context.layer_ms is None:
            return {}
        slow = self.context.layer_ms(self._quantized(after))
        fast = self.context.layer_ms(self._quantized(before))
        return {name: slow[name] - fast[name] for name in kept if name in slow and name in fast}


def _kept_float_note(layer: str, drop: float, ms: float | None) -> str:
    cost = "its cost in ms was not measured" if ms is None else f"costs {ms:.3f} ms"
    return f"max_drop: {layer} kept in float (quantized, the drop would be {100 * drop:.2f} points; {cost})"
