"""The bench of a tabulation: smaller versions of a network, each built for a device and timed beside the whole one."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import exp
from pathlib import Path
from typing import TYPE_CHECKING

from ...calibration.latency_table import Precision, Probe
from ...calibration.scheme import QuantScheme
from ...passes.channels.removal import removed
from ...passes.quantization.quick import fine_products, quickly_quantized
from ...targets.graphs.onnx_graph import OnnxGraph, load_onnx
from ...targets.measuring.feeds import repeated
from ...targets.measuring.latency import of
from ...targets.measuring.launch import paired_log_ratio
from ...targets.measuring.turns import LaunchPlan, measure_rounds
from ..export import export
from ..launch_inputs import example_feeds
from .attributed import times_by_layer
from .smaller import layer_widths

if TYPE_CHECKING:
    from ...model import Model
    from ...passes.channels.dissected import Dissected
    from ...passes.channels.units import Kept
    from ...targets.measuring.device import Device, Frozen

WHOLE, SMALLER = "whole", "smaller"


@dataclass(frozen=True)
class TabulatePlan:
    """What is measured, and how.

    scheme: the grids of INT8; keep_float: names and patterns of layers that stay in float; softmax_sqnr_db: below which
    products of attention do, as for `quantize`. probes: smaller networks, beside the whole one; round_to: what their
    widths are multiples of. rounds: of launches in turns with the whole network, of so many iterations after at most
    `warmup_s` each. export_options: as `export` takes them.
    """

    precision: Precision = "int8"
    scheme: QuantScheme = field(default_factory=QuantScheme)
    keep_float: tuple[str, ...] = ()
    softmax_sqnr_db: float = 30.0
    probes: int = 24
    round_to: int = 8
    batch: int = 1
    rounds: int = 3
    iterations: int = 100
    warmup_s: float = 0.5
    seed: int = 0
    export_options: Mapping[str, int] = field(default_factory=dict)

    def settled(self, model: Model) -> TabulatePlan:
        """The plan that names every layer which stays in float, in smaller versions of the network as in the whole."""
        if self.precision == "float" or not self.softmax_sqnr_db:
            return self
        fine = fine_products(model, self.scheme, self.softmax_sqnr_db)
        return replace(self, keep_float=(*self.keep_float, *fine), softmax_sqnr_db=0.0)


@dataclass(frozen=True)
class _Built:
    frozen: Frozen
    layer_ms: dict[str, float]


@dataclass(frozen=True)
class Bench:
    """A network, what it can do without, and the device that it is timed on. folder: for what is built."""

    model: Model
    dissected: Dissected
    device: Device
    plan: TabulatePlan
    folder: Path

    def measured(self, kept: Kept) -> Probe:
        """The network with only `kept`, timed; its `ms` are those of this time, on no table's scale yet."""
        built = self._built(kept, SMALLER) if kept else self.whole
        engines = {WHOLE: self.whole.frozen, SMALLER: built.frozen}
        fed = repeated(example_feeds(self.model, self.plan.batch))
        how = LaunchPlan(self.plan.iterations, self.plan.warmup_s, self.plan.seed)
        launches = measure_rounds(self.device, engines, fed, self.plan.rounds, how)
        whole, smaller = ([launch.result for launch in of(launches, label)] for label in engines)
        ratios = [exp(paired_log_ratio(one, other)) for one, other in zip(whole, smaller, strict=True)]
        return Probe(
            widths=layer_widths(self.dissected.anatomy, kept),
            ratios=tuple(ratios),
            whole_ms=tuple(result.median_ns / 1e6 for result in whole),
            layer_ms=built.layer_ms,
            ms=smaller[0].median_ns / 1e6,
        )

    @cached_property
    def whole(self) -> _Built:
        """The engine of the whole network, which every other one takes turns with."""
        return self._built({}, WHOLE)

    def _built(self, kept: Kept, name: str) -> _Built:
        place = self.folder / name
        shutil.rmtree(place, ignore_errors=True)
        module = removed(self.model.module, self.dissected.removal(kept))
        smaller = self.model.successor(module, self.model.form)
        if self.plan.precision == "int8":
            smaller = quickly_quantized(smaller, self.plan.scheme, self.plan.keep_float)
        onnx_path = export(smaller, place / "model.onnx", **self.plan.export_options)
        frozen = self.device.build(onnx_path, place / "engine", example_feeds(self.model, self.plan.batch))
        names = {layer.name for layer in self.dissected.anatomy.layers}
        return _Built(frozen, times_by_layer(frozen.layers, OnnxGraph(load_onnx(onnx_path)), names))
