"""`quantize`: post-training INT8 quantization of any network that can be captured as one graph."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from ..calibration.scheme import RangeChoice
from ..form import FLOAT, Form
from .base import Pass, PassContext, PassPlan

if TYPE_CHECKING:
    from ..model import Model


DEFAULT_SENSITIVITY_SAMPLES = 16


class Quantize(Pass):
    """Post-training INT8: weights per channel, activations on the grid that all targets accept."""

    name: ClassVar[str] = "quantize"

    ranges: RangeChoice = Field(
        "auto",
        description="How activation ranges are chosen from the calibration histograms; auto takes the"
        " extremes, unless another way, or one of its own for each tensor, clearly brings the outputs nearer.",
    )
    equalization: Literal["auto", "on", "off"] = Field(
        "auto",
        description="Shift and scale channels into the weights around them, and after GELU and its like, where the"
        " outputs gain by it; auto leaves all of it out when their SQNR does not.",
    )
    bias_correction: bool = Field(
        True, description="Take the mean shift of rounded weights out of the biases."
    )
    softmax_sqnr_db: float = Field(
        30.0,
        ge=0,
        le=200,
        description="A product of attention weights stays in float where rounding them alone would leave the"
        " outputs a lower SQNR; 0 quantizes all.",
    )
    keep_float: tuple[str, ...] = Field(
        (), description="Layers to leave in float, by name or pattern (`head`, `blocks.0.*`)."
    )
    max_drop: float | None = Field(
        None,
        ge=0,
        le=100,
        description="Largest loss of the metric in points (0.5 = half a point): the fewest layers go back to"
        " float to meet it.",
    )
    sensitivity_samples: int = Field(
        DEFAULT_SENSITIVITY_SAMPLES,
        ge=0,
        le=1024,
        description="Samples for the sensitivity of each layer; 0 leaves the table out.",
    )

    @property
    def takes(self) -> frozenset[Form]:
        """Any float network."""
        return FLOAT

    def leaves(self, taken: Form) -> Form:
        """Its graph, with quantizers."""
        return Form.INT8

    def plan(self, model: Model, context: PassContext) -> PassPlan:
        """Capture, equalize where it helps, calibrate, correct biases, and give layers back to float."""
        from .graph.capture import capture
        from .quantization.choices import StepOptions
        from .quantization.closing import closing_note, measured
        from .quantization.coverage import coverage_note, coverage_rows, nothing_to_do
        from .quantization.float_layers import FloatLayers
        from .quantization.placement import BOTH_ADDENDS, layers_to_keep, place
        from .quantization.steps import Steps

        graph = capture(model)
        graph.meta[BOTH_ADDENDS] = context.scheme.both_addends
        kept = layers_to_keep(graph, self.keep_float, self.name)
        placement = place(graph, kept)
        if not any(c.quantized for c in placement.coverage):
            return PassPlan({}, {}, modified=False, notes=(nothing_to_do(placement),))
        asked = StepOptions(
            self.name, self.ranges, self.equalization, self.bias_correction, self.softmax_sqnr_db
        )
        steps = Steps(asked, model, context, graph)
        state, notes = steps.best(kept)
        layers = FloatLayers(steps)
        details: dict[str, Any] = {}
        wanted = self.sensitivity_samples > 0 or self.max_drop is not None
        ranked = layers.rank(state, self.sensitivity_samples or DEFAULT_SENSITIVITY_SAMPLES) if wanted else []
        if ranked:
            details["sensitivity"] = [asdict(r) for r in ranked]
        if self.max_drop is not None:
            state, kept_float, found = layers.meet_drop(state, [r.layer for r in ranked], self.max_drop)
            notes += found
            details["kept_float"] = kept_float
        details["coverage"] = coverage_rows(state.placement)
        notes.insert(0, coverage_note(state.placement, context.scheme.name))
        closing = measured(graph, state.quantized, context.data.validation, steps.static_batch)
        notes.insert(1, closing_note(closing, by_metric=self.max_drop is not None))
        if closing is not None:
            details["closing"] = asdict(closing)
        return PassPlan(state.structure(), state.tensors(), notes=tuple(notes), details=details)

    def rebuild(self, model: Model, plan: PassPlan, context: PassContext) -> Model:
        """The quantized graph: the capture of `model`, with the plan's tensors and quantizers in it."""
        from .quantization.quantizers import stored_bytes
        from .quantization.rebuild import rebuild_graph

        quantized = rebuild_graph(model, plan.structure, plan.tensors)
        return model.successor(quantized, Form.INT8, stored_bytes=stored_bytes(quantized))
