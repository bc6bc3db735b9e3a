"""`quantize`: post-training INT8 quantization of any network that can be captured as one graph."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from ..calibration.scheme import RangeChoice
from ..errors import CompressError
from .base import Pass, PassContext, PassPlan

if TYPE_CHECKING:
    from torch import fx

    from ..model import Model
    from .quantization.placement import Placement


class Quantize(Pass):
    """Post-training INT8: weights per channel, activations on the grid that all targets accept."""

    name: ClassVar[str] = "quantize"

    ranges: RangeChoice = Field(
        "auto",
        description="How activation ranges are chosen from the calibration histograms; auto takes for each"
        " tensor the way that moves the network's outputs least.",
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
        16, ge=0, le=1024, description="Samples for the sensitivity of each layer; 0 leaves the table out."
    )

    @classmethod
    def refuses_after(cls, earlier: Sequence[Pass]) -> str | None:
        """A quantized network cannot be quantized again."""
        if any(done.name == cls.name for done in earlier):
            return "the network is already INT8 here, by the quantize above: list it once"
        return None

    def plan(self, model: Model, context: PassContext) -> PassPlan:
        """Capture, equalize where it helps, calibrate, correct biases, and give layers back to float."""
        from .quantization.capture import capture
        from .quantization.placement import place
        from .quantization.steps import Steps

        graph = capture(model)
        kept = self._kept(graph)
        placement = place(graph, kept)
        if not any(c.quantized for c in placement.coverage):
            return PassPlan({}, {}, modified=False, notes=(_nothing_to_do(placement),))
        steps = Steps(self, model, context, graph)
        notes = steps.equalize(kept)
        state = steps.calibrate(steps.graph, kept, context.data.calibration)
        if self.bias_correction:
            notes.append(f"bias correction: {steps.correct(state)} layers")
        details: dict[str, Any] = {}
        ranked = steps.rank(state)
        if ranked:
            details["sensitivity"] = [asdict(r) for r in ranked]
        if self.max_drop is not None:
            state, kept_float, found = steps.meet_drop(state, [r.layer for r in ranked], self.max_drop)
            notes += found
            details["kept_float"] = kept_float
        details["coverage"] = [
            {"layer": c.layer, "kind": c.kind, "macs": c.macs, "quantized": c.quantized, "reason": c.reason}
            for c in state.placement.coverage
        ]
        notes.insert(0, _coverage_note(state.placement, context.scheme.name))
        return PassPlan(state.structure(), state.tensors(), notes=tuple(notes), details=details)

    def rebuild(self, model: Model, plan: PassPlan) -> Model:
        """The quantized graph: the capture of `model`, with the plan's tensors and quantizers in it."""
        from .quantization.bias_correction import correctable
        from .quantization.capture import capture
        from .quantization.folding import ensure_biases
        from .quantization.operators import set_tensor
        from .quantization.placement import place
        from .quantization.quantizers import Grid, insert_quantizers, stored_bytes
        from .quantization.rescale import insert_rescaling
        from .quantization.steps import SCALE_PREFIX

        graph = capture(model)
        for node_name in plan.structure["rescaled"]:
            insert_rescaling(graph, node_name)
        ensure_biases(graph, correctable(graph, place(graph)))
        for name, tensor in plan.tensors.items():
            if not name.startswith(SCALE_PREFIX):
                set_tensor(graph, name, tensor.clone())
        placement = place(graph, plan.structure["keep_float"])
        grids = {name: Grid(**grid) for name, grid in plan.structure["grids"].items()}
        scales = {
            name.removeprefix(SCALE_PREFIX): tensor.clone()
            for name, tensor in plan.tensors.items()
            if name.startswith(SCALE_PREFIX)
        }
        quantized = insert_quantizers(graph, placement, grids, scales)
        return model.successor(quantized, stored_bytes=stored_bytes(quantized, placement.weights))

    def _kept(self, graph: fx.GraphModule) -> dict[str, str]:
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
        return dict.fromkeys(sorted(kept), "kept in float by the recipe")


def _coverage_note(placement: Placement, grid: str) -> str:
    quantized = sum(c.quantized for c in placement.coverage)
    return (
        f"{quantized} of {len(placement.coverage)} layers, {100 * placement.int8_macs:.1f} % of MACs placed in INT8;"
        f" activations {grid}"
    )


def _nothing_to_do(placement: Placement) -> str:
    reasons = list(dict.fromkeys(f"{c.layer}: {c.reason}" for c in placement.coverage))
    if not reasons:
        return "no convolution, linear layer or matmul to quantize"
    return "no layer can be quantized: " + "; ".join(reasons[:5]) + ("; …" if len(reasons) > 5 else "")
