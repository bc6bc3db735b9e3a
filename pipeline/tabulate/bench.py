"""The bench of a tabulation: smaller versions of a network, each built for a device and timed beside the whole one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from ...calibration.latency_table import Probe
from ...passes.channels.removal import removed
from ...targets.graphs.onnx_graph import OnnxGraph, load_onnx
from .attributed import times_by_layer
from .beside import Built, TimingPlan, Turns
from .smaller import layer_widths

if TYPE_CHECKING:
    from ...model import Model
    from ...passes.channels.dissected import Dissected
    from ...passes.channels.units import Kept
    from ...targets.measuring.device import Device


@dataclass(frozen=True)
class TabulatePlan(TimingPlan):
    """What is measured, and how. probes: smaller networks, beside the whole one; round_to: what their widths are
    multiples of."""

    probes: int = 24
    round_to: int = 8

    def settled(self, model: Model) -> TabulatePlan:
        """The plan that names every layer which stays in float, in smaller versions of the network as in the whole."""
        if self.precision == "float" or not self.softmax_sqnr_db:
            return self
        return replace(self, keep_float=self.kept_float(model), softmax_sqnr_db=0.0)


@dataclass(frozen=True)
class Bench:
    """A network, what it can do without, and the device that it is timed on. folder: for what is built."""

    model: Model
    dissected: Dissected
    device: Device
    plan: TabulatePlan
    folder: Path

    @cached_property
    def turns(self) -> Turns:
        """The whole network, in turns with which smaller ones are timed."""
        return Turns(self.model, self.device, self.plan, self.folder)

    def measured(self, kept: Kept) -> Probe:
        """The network with only `kept`, timed; its `ms` are those of this time, on no table's scale yet."""
        built = self.turns.built(self._smaller(kept)) if kept else self.turns.whole
        times = self.turns.timed(built)
        return Probe(
            widths=layer_widths(self.dissected.anatomy, kept),
            ratios=times.ratios,
            whole_ms=times.whole_ms,
            layer_ms=self._layer_ms(built),
            ms=times.ms,
        )

    def _smaller(self, kept: Kept) -> Model:
        module = removed(self.model.module, self.dissected.removal(kept))
        return self.model.successor(module, self.model.form)

    def _layer_ms(self, built: Built) -> dict[str, float]:
        names = {layer.name for layer in self.dissected.anatomy.layers}
        return times_by_layer(built.frozen.layers, OnnxGraph(load_onnx(built.onnx_path)), names)
