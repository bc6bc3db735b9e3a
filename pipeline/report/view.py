"""What the report shows, worked out from run.json: rows and bars, so that templates hold no arithmetic."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from ...calibration.measurement import MetricRecord
from ...targets.layer import Layer
from ..int8_share import int8_share_text, uncounted_text
from ..pages.words import (
    UNKNOWN,
    byte_size,
    known,
    metric_change,
    metric_interval,
    metric_value,
    ms,
    ratio,
    ratio_interval,
)
from ..run_record import EngineRecord, RunRecord, TargetRecord
from .charts import Strip, latency_strips
from .layers import LayerRow, match_layers

LAYER_ROWS = 400  # of one device, and three times as many of a whole report
LAYER_BARS = 20
STATUS = {"run": "run", "built": "built, not run", "unavailable": "unavailable", "failed": "failed"}
PRECISION_CSS = {"int8": "int8", "bf16": "half", "f16": "half", "f32": "float"}


@dataclass(frozen=True)
class EngineView:
    """One engine of a device, under the role that a reader knows it by."""

    role: str
    css: str
    engine: EngineRecord

    @property
    def no_shares(self) -> str:
        """Why there are no shares."""
        uncounted = [layer for layer in self.engine.layers if layer.macs is None]
        return f"{UNKNOWN}: {uncounted_text(uncounted)}" if uncounted else ""

    @property
    def shares(self) -> list[tuple[str, str, float]]:
        """(precision, css class, share of the MACs), largest first."""
        shares = [(p, s) for p, s in self.engine.precision.items() if known(s) and s > 0]
        shares.sort(key=lambda pair: -pair[1])
        return [(p, PRECISION_CSS.get(p, "other"), s) for p, s in shares]


@dataclass(frozen=True)
class Timing:
    """When and how engines were timed; those timed alike are told of once."""

    roles: list[str]
    cached: bool
    measured_at: str
    warmup: int
    note: str
    origin: str


@dataclass(frozen=True)
class DeviceView:
    """One device: its engines, its latency chart, and its layers before and after."""

    label: str
    status: str
    target: TargetRecord
    engines: list[EngineView]
    chart: Markup | None
    timings: list[Timing]
    layers: list[LayerRow]
    layer_count: int
    slowest: list[LayerRow]

    @property
    def longest_ms(self) -> float:
        """The longest bar of the chart of slowest layers."""
        return max((row.slowest_ms for row in self.slowest), default=0.0) or 1.0

    @property
    def version(self) -> str:
        """The runtime and its version."""
        version = self.target.version or "version unknown"
        return version if version.startswith(self.target.runtime) else f"{self.target.runtime} {version}"

    @property
    def layers_ms(self) -> tuple[float | None, float | None]:
        """Time in all layers together, before and after; None where any of them was not timed."""
        before, after = self.target.baseline, self.target.compressed
        return _total_ms(before.layers if before else []), _total_ms(after.layers if after else [])

    @property
    def int8_share(self) -> str:
        """Share of the compressed engine's MACs executed in INT8, or what is known of it."""
        return int8_share_text(self.target.compressed)

    def p50(self, role: str) -> float | None:
        """Median latency in ms of the engine in the role "baseline", "default" or "compressed"."""
        return _p50(getattr(self.target, role))


@dataclass(frozen=True)
class Tile:
    """A headline number."""

    title: str
    value: str
    detail: str


def device_views(record: RunRecord) -> list[DeviceView]:
    """Every device, in the recipe's order."""
    with_layers = sum(1 for t in record.targets if t.compressed is not None and t.compressed.layers)
    cap = min(LAYER_ROWS, 3 * LAYER_ROWS // max(with_layers, 1))
    return [_device(target, cap) for target in record.targets]


def _device(target: TargetRecord, cap: int) -> DeviceView:
    roles = (
        ("f32 baseline", "float", target.baseline),
        ("runtime default", "half", target.default),
        ("compressed", "int8", target.compressed),
    )
    engines = [EngineView(role, css, engine) for role, css, engine in roles if engine is not None]
    timed = [(e, e.engine.latency_ms) for e in engines if e.engine.latency_ms is not None]
    strips = [Strip(e.css, e.role, t.p50, t.samples_ms) for e, t in timed if known(t.p50)]
    before = target.baseline.layers if target.baseline is not None else []
    rows = match_layers(before, target.compressed.layers if target.compressed is not None else [])
    slowest = sorted(rows, key=lambda row: -row.slowest_ms)
    kept = {id(row) for row in slowest[:cap]}
    return DeviceView(
        label=target.label,
        status=STATUS[target.status],
        target=target,
        engines=engines,
        chart=latency_strips(strips) if strips else None,
        timings=_timings(engines),
        layers=[row for row in rows if id(row) in kept],
        layer_count=len(rows),
        slowest=[row for row in slowest[:LAYER_BARS] if row.slowest_ms > 0],
    )


def _p50(engine: EngineRecord | None) -> float | None:
    return engine.latency_ms.p50 if engine is not None and engine.latency_ms is not None else None


def _total_ms(layers: Sequence[Layer]) -> float | None:
    times = [layer.ms for layer in layers if layer.ms is not None]
    return sum(times) if times and len(times) == len(layers) else None


def _timings(engines: Sequence[EngineView]) -> list[Timing]:
    found: dict[tuple[bool, str, int, str, str], list[str]] = {}
    for view in engines:
        t = view.engine.latency_ms
        if t is not None:
            key = t.cached, t.measured_at, t.warmup_iterations, t.note, t.inputs_origin
            found.setdefault(key, []).append(view.role)
    return [Timing(roles, *key) for key, roles in found.items()]


def timed_device(devices: Sequence[DeviceView]) -> DeviceView | None:
    """The first device on which the float and the compressed engine were both timed."""
    return next((d for d in devices if d.p50("baseline") and d.p50("compressed")), None)


def tiles(record: RunRecord, devices: Sequence[DeviceView]) -> list[Tile]:
    """The four numbers that a reader looks for first."""
    found: list[Tile] = []
    if record.steps:
        first, last = record.steps[0], record.steps[-1]
        change = metric_change(first.metric.value, last.metric.value)
        detail = f"float {metric_value(first.metric.value)}{change and f' · {change}'}, n = {last.metric.n:,}"
        found.append(Tile(last.metric.name, metric_value(last.metric.value), detail))
        found.append(Tile("weights", byte_size(last.bytes), f"float {byte_size(first.bytes)}"))
    device = timed_device(devices)
    if device is not None:
        detail = f"f32 {ms(device.p50('baseline'))}"
        speedup = device.target.speedup_over_f32
        if speedup is not None:
            detail += f" · speed-up {ratio(speedup.ratio)} ({ratio_interval(speedup.ci95)})"
        found.append(Tile(f"p50 on {device.label}", ms(device.p50("compressed")), detail))
        found.append(Tile(f"INT8 on {device.label}", *_int8_tile(device)))
    return found


def _int8_tile(device: DeviceView) -> tuple[str, str]:
    """The share for a headline; what leaves it open is told below."""
    share, _, why = device.int8_share.partition(": ")
    return share, why or "share of MACs, as executed"


def metric_text(metric: MetricRecord | None) -> str:
    """A metric with all that is needed to judge it: its interval, sample count and part of the data."""
    if metric is None:
        return "not measured"
    return f"{metric_value(metric.value)} ({metric_ground(metric)})"


def metric_ground(metric: MetricRecord) -> str:
    """What a metric stands on: "83.65 to 88.91 %, n = 656, test" (with a dash)."""
    bounds = metric_interval(metric.value, metric.ci95)
    return f"{bounds}, n = {metric.n:,}, {metric.part}"


def flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested values as (dotted name, text): {"cpu": {"cores": 2}} gives ("cpu.cores", "2")."""
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{prefix}{key}.")
        elif isinstance(value, list | tuple):
            yield f"{prefix}{key}", ", ".join(map(str, value)) or "none"
        else:
            yield f"{prefix}{key}", "none" if value is None or value == {} else str(value)
