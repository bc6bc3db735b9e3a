"""run.json: the one record of a run, from which every report is made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from ..calibration.measurement import FidelityRecord, MetricRecord
from ..record import Count, Record, Seconds
from ..targets.layer import Layer
from ..targets.measuring.latency import Latency, Speedup

SCHEMA_VERSION = 1
FLOAT_PRECISION = "f32"


def plain_settings(built: Mapping[str, Any], launched: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Settings of an engine as a record keeps them: what is no plain value as its text.

    built: what its build told; launched: what it told when it was timed, which counts where both speak, unless it is
    the same in words.
    """
    told = dict(built)
    for key, value in (launched or {}).items():
        if key not in told or str(told[key]) != str(value):
            told[key] = value
    return {
        key: value if isinstance(value, bool | int | float | str) else str(value)
        for key, value in told.items()
    }


class BudgetRecord(Record):
    """One promise and whether it was kept. `limit` and `measured` are texts with their units ("5 ms", "4.1 ms")."""

    name: str
    limit: str
    measured: str
    verdict: Literal["PASS", "FAIL"]
    reason: str


class StepRecord(Record):
    """One pass, or the float model (`pass_name` "float") in the first row."""

    pass_name: str
    options: dict[str, Any] = {}
    modified: bool
    seconds: Seconds
    cached: bool
    params: Count
    macs: Count | None
    """Multiply-accumulates of one sample; null when any of them cannot be counted."""
    bytes: Count
    metric: MetricRecord
    fidelity: FidelityRecord | None = None
    """To the float model; null for that itself, where outputs are not scores of classes, and in old records."""
    notes: list[str] = []
    details: dict[str, Any] = {}


class ArtefactRecord(Record):
    """A file in the run folder, `path` relative to it."""

    path: str
    kind: str
    bytes: Count
    sha256: str


class EngineRecord(Record):
    """One model on one device."""

    label: str
    settings: dict[str, Any]
    latency_ms: Latency | None = None
    metric: MetricRecord | None = None
    engine_bytes: Count
    precision: dict[str, float] = {}
    """Share of the MACs executed in each precision, by the runtime's own word; empty when not all MACs are known."""
    layers: list[Layer] = []
    peak_memory_bytes: Count | None = None
    """Most that the process of a launch held, the median of the launches; null where the machine cannot tell."""
    joules: float | None = None
    """Energy of one inference by the machine's own counters; null where it has none."""


class BetweenRecord(Record):
    """The model after a pass that others follow, on a device: timed in the same turns as what is shipped.

    Nothing else of it was asked there: what it answers was measured after the pass.
    """

    step: int
    """Its place among the run's steps."""
    latency_ms: Latency | None = None
    precision: dict[str, float] = {}
    """Share of the MACs executed in each precision, by the runtime's own word; empty when not all MACs are known."""
    reason: str = ""
    """Why it was not timed."""


class ParityRecord(Record):
    """How far the outputs of one edge of the flow are from the edge before it, on real samples.

    Numbers are null where there is nothing that they could be of.
    """

    edge: str
    max_error: float | None
    sqnr_db: float | None
    top1_agreement: float | None
    n: int
    limit: str
    ok: bool
    agreement: float | None = None
    """Least share of equal integers, or of matched rows of a ranking, over the outputs that have them."""
    worst: str = ""
    """The output that is furthest off, where there are several."""
    where: str = ""
    """First layer whose values differ, of a broken proof."""


class TargetRecord(Record):
    """One device. `baseline` is the float model in f32, `default` the float model as the runtime runs it unasked."""

    device: str
    runtime: str
    version: str | None
    status: Literal["run", "built", "unavailable", "failed"]
    reason: str = ""
    name: str = ""
    """Name of the device in devices.yaml; empty for a device that is named by its runtime."""
    baseline: EngineRecord | None = None
    default: EngineRecord | None = None
    compressed: EngineRecord | None = None
    speedup: list[Speedup] = []
    between: list[BetweenRecord] = []
    """The models between passes; empty where there are none, or they were not to be timed, and in old records."""
    parity: ParityRecord | None = None
    """The compressed engine against its ONNX file."""
    fidelity: FidelityRecord | None = None
    """The compressed engine to the float model; null where outputs are not scores of classes, and in old records."""
    float_parity: list[ParityRecord] = []
    """The float engines against theirs."""

    @property
    def parities(self) -> list[ParityRecord]:
        """Every proof on this device."""
        return [*self.float_parity, *([self.parity] if self.parity is not None else [])]

    @property
    def label(self) -> str:
        """The name that budgets use for a device: `openvino:CPU`, whichever way the record spells the device."""
        if self.name:
            return self.name
        if not self.device or self.device == self.runtime or self.device.startswith(f"{self.runtime}:"):
            return self.device or self.runtime
        return f"{self.runtime}:{self.device}"

    @property
    def broken_baselines(self) -> list[ParityRecord]:
        """The broken proofs of the float engines: what is timed against them says nothing."""
        return [parity for parity in self.float_parity if not parity.ok]

    @property
    def speedup_over_f32(self) -> Speedup | None:
        """The speed-up whose named baseline is the float engine in f32; None when it was not measured."""
        f32_label = self.baseline.label if self.baseline is not None else None
        for speedup in self.speedup:
            if speedup.baseline == f32_label:
                return speedup
        return next((s for s in self.speedup if FLOAT_PRECISION in s.baseline.lower()), None)


class RunRecord(Record):
    """The whole of run.json."""

    schema_version: int = SCHEMA_VERSION
    name: str
    verdict: Literal["PASS", "FAIL", "INCONCLUSIVE"]
    reason: str
    command: str
    started_at: str
    seconds: Seconds
    seed: Annotated[int, Field(ge=-(2**63), lt=2**64)]
    environment: dict[str, Any]
    data: dict[str, Any]
    recipe: str
    """The recipe's text, as it was read."""
    budgets: list[BudgetRecord]
    steps: list[StepRecord]
    proofs: list[ParityRecord]
    artefacts: list[ArtefactRecord]
    targets: list[TargetRecord]
