"""gate.json: what a gate measured and decided; every report of it is made from this record alone."""

from __future__ import annotations

from typing import Any, Literal

from ...record import Count, Record, Seconds
from .sequential import Look

GATE_SCHEMA = 1
Verdict = Literal["PASS", "FAIL", "INCONCLUSIVE"]


class Side(Record):
    """One of the two sides that are compared, as frozen on one device.

    source: what the user named; name: of the model, as its run or its file has it; bytes: of what is shipped.
    """

    source: str
    name: str
    bytes: Count
    engine_sha256: str
    engine_bytes: Count
    settings: dict[str, Any]


class LaunchRow(Record):
    """One launch. pair: counted from 0; block: samples that belong to one turn, and with the other side's same turn."""

    side: Literal["baseline", "candidate"]
    pair: Count
    block: Count
    median_ms: float
    samples_ns: list[int]
    state_before: dict[str, Any]
    state_after: dict[str, Any]


class LatencyResult(Record):
    """The test of latency on one device. log_ratios: candidate over baseline, of each pair.

    set_aside: why pairs were measured anew, one text for each.
    """

    looks: list[Look]
    log_ratios: list[float] = []
    launches: list[LaunchRow]
    set_aside: list[str] = []
    lost: bool = False
    """Whether the device went away for good."""
    inputs: Count = 1
    """How many different inputs the launches were fed in turn: sample i of a launch is of input i modulo that."""
    inputs_sha256: str = ""
    """SHA-256 of all inputs in order; empty in records of before."""
    inputs_origin: str = ""
    """What they are, in words that follow "over"."""

    @property
    def last(self) -> Look | None:
        """The look that decided; None when the device went away before the first."""
        return self.looks[-1] if self.looks else None


class Measure(Record):
    """One thing that was judged. p: adjusted for all measures of the gate (Holm); None for exact comparisons."""

    name: Literal["latency", "size", "outputs", "accuracy"]
    device: str
    verdict: Verdict
    baseline: str
    candidate: str
    reason: str
    p: float | None = None


class DeviceGate(Record):
    """One device: what it is, the two engines, the latency test in full."""

    label: str
    runtime: str
    version: str | None
    machine: str
    capabilities: dict[str, str]
    options: dict[str, Any]
    baseline: Side
    candidate: Side
    latency: LatencyResult


class GateRecord(Record):
    """The whole of gate.json. limits: of the sequential test, in its own names."""

    schema_version: int = GATE_SCHEMA
    verdict: Verdict
    reason: str
    started_at: str
    seconds: Seconds
    seed: int
    commit: str
    environment: dict[str, Any]
    limits: dict[str, Any]
    measures: list[Measure]
    devices: list[DeviceGate]
