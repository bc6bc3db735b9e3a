"""Networks made of one network, each built for a device and timed there in turns with it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import exp
from pathlib import Path
from typing import TYPE_CHECKING

from ...calibration.latency_table import Precision
from ...calibration.scheme import QuantScheme
from ...calibration.times import Times
from ...passes.quantization.quick import fine_products, quickly_quantized
from ...targets.measuring.feeds import repeated
from ...targets.measuring.latency import of
from ...targets.measuring.launch import paired_log_ratio
from ...targets.measuring.turns import LaunchPlan, measure_rounds
from ..export import export
from ..launch_inputs import example_feeds

if TYPE_CHECKING:
    from ...model import Model
    from ...targets.measuring.device import Device, Frozen

WHOLE, OTHER = "whole", "other"


@dataclass(frozen=True)
class TimingPlan:
    """What is built of a network, and how it is timed.

    scheme: the grids of INT8; keep_float: names and patterns of layers that stay in float; softmax_sqnr_db: below which
    products of attention do, as for `quantize`. rounds: of launches in turns with the whole network, of so many
    iterations after at most `warmup_s` each. export_options: as `export` takes them.
    """

    precision: Precision = "int8"
    scheme: QuantScheme = field(default_factory=QuantScheme)
    keep_float: tuple[str, ...] = ()
    softmax_sqnr_db: float = 30.0
    batch: int = 1
    rounds: int = 3
    iterations: int = 100
    warmup_s: float = 0.5
    seed: int = 0
    export_options: Mapping[str, int] = field(default_factory=dict)

    def kept_float(self, model: Model) -> tuple[str, ...]:
        """The layers and products of a network that stay in float, of these precisions."""
        if self.precision == "float" or not self.softmax_sqnr_db:
            return self.keep_float
        return (*self.keep_float, *fine_products(model, self.scheme, self.softmax_sqnr_db))


@dataclass(frozen=True)
class Built:
    """An engine, and the ONNX file that it was built of."""

    frozen: Frozen
    onnx_path: Path


@dataclass(frozen=True)
class Turns:
    """A whole network and the device that it is timed on. folder: for what is built."""

    model: Model
    device: Device
    plan: TimingPlan
    folder: Path

    @cached_property
    def whole(self) -> Built:
        """The engine of the whole network, which every other one takes turns with."""
        return self.built(self.model, WHOLE)

    def built(self, model: Model, name: str = OTHER) -> Built:
        """The engine of a network, in the place of the last one of that name."""
        place = self.folder / name
        shutil.rmtree(place, ignore_errors=True)
        if self.plan.precision == "int8":
            model = quickly_quantized(model, self.plan.scheme, self.plan.kept_float(model))
        onnx_path = export(model, place / "model.onnx", **self.plan.export_options)
        frozen = self.device.build(onnx_path, place / "engine", example_feeds(self.model, self.plan.batch))
        return Built(frozen, onnx_path)

    def timed(self, other: Built) -> Times:
        """An engine beside the whole network's."""
        engines = {WHOLE: self.whole.frozen, OTHER: other.frozen}
        fed = repeated(example_feeds(self.model, self.plan.batch))
        how = LaunchPlan(self.plan.iterations, self.plan.warmup_s, self.plan.seed)
        launches = measure_rounds(self.device, engines, fed, self.plan.rounds, how)
        whole, smaller = ([launch.result for launch in of(launches, label)] for label in engines)
        return Times(
            tuple(exp(paired_log_ratio(one, other)) for one, other in zip(whole, smaller, strict=True)),
            tuple(result.median_ns / 1e6 for result in whole),
            smaller[0].median_ns / 1e6,
        )
