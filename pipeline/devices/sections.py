"""What a user says of a device: its runtime, its settings and where it is."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from ...section import Section
from ...targets.base import FAKE, TargetOptions
from ...targets.measuring.fake import Noise
from ..recipe.values import ComputeCapability

DAY_S = 86_400.0


class SshSection(Section):
    """How to reach a device."""

    host: str
    """Name or address, as `ssh` takes it; its key must be in known_hosts."""
    user: str = ""
    """Empty: the user here, or what ssh's own configuration says."""
    port: int = Field(default=0, ge=0, le=65535)
    """0: ssh's own default."""
    identity: Path | None = None
    """A private key; otherwise what ssh finds."""
    known_hosts: Path | None = None
    """A file of host keys; otherwise ssh's own."""
    python: str = "python3"
    """The Python there that has edgepress installed."""
    workdir: str = ""
    """A folder there that keeps models between connections; empty: a temporary one."""
    timeout_s: float = Field(default=600, gt=0, le=DAY_S)
    """Seconds that one request may take, of launches in turns each; in a run, beyond what measure.timeout_s lets its
    engines take."""
    heartbeat_s: float = Field(default=15, gt=0, le=DAY_S)
    """Seconds of silence after which the connection is given up."""
    connect_timeout_s: float = Field(default=15, gt=0, le=DAY_S)
    """Seconds to connect in."""
    config: Path | None = None
    """A configuration file of ssh in place of its own."""


class DeviceSection(Section):
    """One device."""

    runtime: str
    """`openvino`, `onnxruntime`, `tensorrt`, or `fake`, which is none."""
    device: str = ""
    """Name that the runtime gives the device; empty is its default."""
    threads: int = Field(default=0, ge=0, le=1024)
    """CPU threads; 0 is the runtime's own choice."""
    streams: int = Field(default=0, ge=0, le=1024)
    """Inferences at once in throughput mode; 0 is the runtime's own choice."""
    mode: Literal["latency", "throughput"] = "latency"
    """What is timed: one inference at a time, or as many at once as the device likes."""
    float_precision: Literal["default", "f32"] = "default"
    """What float layers run in: the runtime's choice, or always f32."""
    copies: bool = True
    """Whether a timed inference includes handing inputs in and outputs out, as an application has it."""
    compute_capabilities: tuple[ComputeCapability, ...] = ()
    """TensorRT only: the GPUs to build for ahead of time."""
    power_mode: str = ""
    """The CPU governor that must be set, as `performance`; empty: not checked."""
    ssh: SshSection | None = None
    """Where the device is; left out: this machine."""
    noise: Noise = Noise()
    """Noise of a fake device."""
    seed: int = Field(default=0, ge=0)
    """Seed of a fake device's noise."""

    @property
    def here(self) -> bool:
        """Whether it is a real device of this machine."""
        return self.ssh is None and self.runtime != FAKE

    @model_validator(mode="after")
    def _has_an_effect(self) -> Self:
        unused = {"noise", "seed"} if self.runtime != FAKE else {"ssh"}
        if wrong := sorted(unused & self.model_fields_set):
            raise ValueError(f"{', '.join(wrong)} means nothing for the runtime {self.runtime}: remove it")
        if self.mode == "throughput" and not self.copies:
            raise ValueError("copies: false means nothing in throughput mode: remove it")
        return self

    def options(self, batch: int) -> TargetOptions:
        """The options as targets take them."""
        return TargetOptions(
            device=self.device,
            float_precision=self.float_precision,
            threads=self.threads,
            compute_capabilities=self.compute_capabilities,
            batch=batch,
            mode=self.mode,
            streams=self.streams,
            copies=self.copies,
        )
