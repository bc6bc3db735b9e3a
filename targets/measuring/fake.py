"""A device that is not there, with the noise of real ones and a seed: gates and reports are tested without hardware."""

from __future__ import annotations

import hashlib
import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from ...errors import CompressError
from ...isolated import Limits
from ...section import Section
from .. import REFERENCE, TARGETS
from ..base import FAKE, Feeds, FloatPrecision, TargetOptions
from ..isolated_engine import KeptEngine
from .device import LIMITS, DeviceFacts, DeviceLostError, Fed, Frozen
from .feeds import FeedSequence, repeated, whole_walks
from .launch import LaunchResult
from .machine import MachineState

MACS_PER_MS = 50e6
"""What the device computes: a millisecond for 50 M multiply-accumulates, and NODE_MS for each node."""
NODE_MS = 0.002
STARTED_AT = "2000-01-01T00:00:00+00:00"


class Noise(Section):
    """The noise of a fake device: standard deviations and sizes on the logarithm of the time, rates a launch.

    log t = mean + drift + launch + input + iteration, and what else happens to devices.
    """

    launch_sd: float = Field(default=0.018, ge=0, le=1)
    """Spread of a launch's level; a pair differs by 1.4 times that."""
    iteration_sd: float = Field(default=0.01, ge=0, le=1)
    """Within a launch."""
    input_sd: float = Field(default=0.0, ge=0, le=5)
    """Spread of an input's own level, the same for every engine, where launches are fed several."""
    drift_sd: float = Field(default=0.0, ge=0, le=1)
    """Spread of the step from launch to launch."""
    spike_rate: float = Field(default=0.0, ge=0, le=1)
    """Share of the inferences that something interrupts."""
    spike_size: float = Field(default=0.7, ge=0, le=5)
    """How much slower those are."""
    throttle_rate: float = Field(default=0.0, ge=0, le=1)
    """How likely a launch starts a throttled stretch."""
    throttle_size: float = Field(default=0.4, ge=0, le=5)
    """How much slower the device then is."""
    throttle_launches: int = Field(default=1, ge=1)
    """How many launches that lasts."""
    throttle_told: bool = False
    """Whether the machine's state shows it."""
    disconnect_rate: float = Field(default=0.0, ge=0, lt=1)
    """How likely a launch is lost."""


class FakeDevice:
    """See `Device`. Launches take no time; what they say follows from the noise and the seed alone."""

    runtime = FAKE

    def __init__(
        self,
        label: str = FAKE,
        noise: Noise = Noise(),
        seed: int = 0,
        options: TargetOptions = TargetOptions(),
        limits: Limits = LIMITS,
    ) -> None:
        self.label = label
        self.options = options
        self._noise = noise
        self._seed = seed
        self._draw = np.random.default_rng(seed)
        self._computes = KeptEngine(TARGETS[REFERENCE], limits)
        self._drift = 0.0
        self._throttled = 0
        self._throttle_events = 0

    def facts(self) -> DeviceFacts:
        """The device's facts: its noise, and that it is none."""
        noise = {"name": "a simulated device", "noise": repr(self._noise), "seed": str(self._seed)}
        return DeviceFacts(FAKE, "", None, noise, "none", self._state())

    def build(
        self, onnx_path: Path, folder: Path, feeds: Feeds, float_precision: FloatPrecision | None = None
    ) -> Frozen:
        """A copy of the ONNX file; its latency follows from its nodes and the MACs of those that can be counted."""
        from ..graphs.macs import node_macs
        from ..graphs.onnx_graph import load_onnx

        model = load_onnx(onnx_path)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "model.onnx"
        shutil.copyfile(onnx_path, path)
        counted = sum(macs for macs in node_macs(model).values() if macs is not None)
        latency = counted / MACS_PER_MS + NODE_MS * len(model.graph.node)
        content = path.read_bytes()
        return Frozen(
            str(path), hashlib.sha256(content).hexdigest(), len(content), {"fake_latency_ms": latency}
        )

    def engine(self, latency_ms: float) -> Frozen:
        """An engine without a file, for simulations."""
        digest = hashlib.sha256(repr(latency_ms).encode()).hexdigest()
        return Frozen("", digest, 0, {"fake_latency_ms": latency_ms})

    def adopt(self, engine: Path) -> Frozen:
        """Only ONNX files have a latency here."""
        raise CompressError(f"{engine}: the fake device runs .onnx files only; give the ONNX file")

    def outputs(self, frozen: Frozen, feeds: Feeds) -> list[np.ndarray[Any, Any]]:
        """What the reference computes."""
        return self._computes.run(frozen.path, frozen.sha256, TargetOptions(), feeds)

    def launch(
        self, frozen: Frozen, sequence: FeedSequence, iterations: int, warmup_s: float, seconds: float = 0
    ) -> LaunchResult:
        """One launch, in no time; DeviceLostError when the noise says so."""
        noise, draw = self._noise, self._draw
        if draw.random() < noise.disconnect_rate:
            raise DeviceLostError(f"{self.label}: the connection was lost")
        before = self._state()
        self._drift += noise.drift_sd * draw.standard_normal()
        level = self._drift + noise.launch_sd * draw.standard_normal() + self._throttling()
        samples = whole_walks(iterations, len(sequence))
        logs = level + noise.iteration_sd * draw.standard_normal(samples)
        logs += noise.spike_size * (draw.random(samples) < noise.spike_rate)
        if noise.input_sd:
            logs += np.tile(noise.input_sd * self._levels(sequence), samples // len(sequence))
        latency_ns = frozen.settings["fake_latency_ms"] * 1e6
        return LaunchResult(
            load_ms=10.0,
            first_inference_ms=2 * latency_ns / 1e6,
            warmup_iterations=30,
            warmup_s=0.0,
            warmed_up=True,
            calls_per_sample=1,
            samples_ns=tuple(np.rint(latency_ns * np.exp(logs)).astype(int).tolist()),
            settings=frozen.settings,
            started_at=STARTED_AT,
            before=before,
            after=self._state(),
            engine_sha256=frozen.sha256,
            outputs_sha256=frozen.sha256,
        )

    def launch_turns(
        self, engines: Sequence[Fed], iterations: int, warmup_s: float, seed: int
    ) -> list[LaunchResult]:
        """One after the other, in random order: drift and throttling come between, as they do on the worst machine."""
        results = {}
        for place in random.Random(seed).sample(range(len(engines)), len(engines)):
            results[place] = self.launch(*engines[place], iterations, warmup_s)
        return [results[place] for place in range(len(engines))]

    def reconnect(self) -> None:
        """Come back, as it always does."""

    def close(self) -> None:
        """End the process of the engine that computed outputs."""
        self._computes.close()

    def _levels(self, sequence: FeedSequence) -> np.ndarray[Any, Any]:
        """A standard normal value for each input, which follows from its own bits, whatever engine runs it."""
        digests = [repeated(feeds).sha256 for feeds in sequence.feeds]
        return np.array([np.random.default_rng(int(one[:16], 16)).standard_normal() for one in digests])

    def _throttling(self) -> float:
        """How much slower (log) this launch is for the heat."""
        if not self._throttled and self._draw.random() < self._noise.throttle_rate:
            self._throttled = self._noise.throttle_launches
        if not self._throttled:
            return 0.0
        self._throttled -= 1
        self._throttle_events += 1
        return self._noise.throttle_size

    def _state(self) -> MachineState:
        return MachineState(throttle_events=self._throttle_events if self._noise.throttle_told else None)
