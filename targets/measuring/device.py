"""A device to measure on: engines are built for it once, frozen, and launched on it. Here, the one of this machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ...errors import CompressError, DeviceUnavailableError
from ...isolated import Limits
from .. import TARGETS, isolated_engine
from ..base import Artefact, BuiltOnly, Engine, Feeds, FloatPrecision, TargetOptions
from ..graphs.attribution import precision_shares
from ..graphs.vnni import weight_limit
from ..isolated_engine import KeptEngine
from ..layer import Layer
from .digests import files_digest
from .feeds import FeedSequence, save_feeds
from .launch import LaunchResult, LaunchSpec, launch, launch_turns
from .machine import MachineState, cpu_model, gpu_of, machine_state

LAYER_ITERATIONS = 30
LIMITS = Limits(seconds=900)
"""Of every process of a device, where nobody names others."""


class DeviceLostError(DeviceUnavailableError):
    """A device went away, or answered what cannot be trusted, in the middle of the work; what it said is not used."""


class BuiltOnlyError(DeviceUnavailableError):
    """Engines were built, and nothing here can run them. built: what there is."""

    def __init__(self, built: BuiltOnly) -> None:
        super().__init__(f"built, not run: {built.reason}")
        self.built = built


@dataclass(frozen=True)
class DeviceFacts:
    """What a device is and how it is now. capabilities: the runtime's word; versions: of what runs on it.

    weight_limit: the largest magnitude of an INT8 weight that its CPU sums without saturating; None: not told.
    """

    runtime: str
    device: str
    version: str | None
    capabilities: dict[str, str]
    machine: str
    state: MachineState
    weight_limit: int | None = None


@dataclass(frozen=True)
class Frozen:
    """An engine that is not built again. path: on the device; sha256: of all its files; each launch tells it anew.

    options: what it is opened with, for launches and outputs; artefacts: the files that its build left here.
    """

    path: str
    sha256: str
    bytes: int
    settings: dict[str, Any] = field(default_factory=dict)
    layers: tuple[Layer, ...] = ()
    options: TargetOptions = field(default_factory=TargetOptions)
    artefacts: tuple[Artefact, ...] = ()

    @property
    def precision(self) -> dict[str, float]:
        """Share of the multiply-accumulates in each executed precision."""
        return precision_shares(list(self.layers))

    def in_any_batch(self) -> Frozen:
        """The engine as it takes batches of any size, where its file does: to compare outputs, not times."""
        return replace(self, options=replace(self.options, batch=0))


Fed = tuple[Frozen, FeedSequence]
"""An engine, and what its launches are fed."""


class Device(Protocol):
    """Where engines run. Every method raises DeviceLostError when the device goes away, for good or for now."""

    label: str
    runtime: str
    options: TargetOptions

    def facts(self) -> DeviceFacts:
        """What the device is, as far as it tells."""

    def build(
        self, onnx_path: Path, folder: Path, feeds: Feeds, float_precision: FloatPrecision | None = None
    ) -> Frozen:
        """Build and freeze; CompressError when the runtime refuses the model, BuiltOnlyError when nothing runs it.

        float_precision: in place of the one that the device's options name.
        """

    def adopt(self, engine: Path) -> Frozen:
        """Freeze an engine file that a build left on this machine."""

    def outputs(self, frozen: Frozen, feeds: Feeds) -> list[np.ndarray[Any, Any]]:
        """One inference, in the model's output order."""

    def launch(
        self, frozen: Frozen, sequence: FeedSequence, iterations: int, warmup_s: float, seconds: float = 0
    ) -> LaunchResult:
        """One launch in a process of its own."""

    def launch_turns(
        self, engines: Sequence[Fed], iterations: int, warmup_s: float, seed: int
    ) -> list[LaunchResult]:
        """A launch of each engine, which take turns (`launch.launch_turns`) in an order that the seed decides."""

    def reconnect(self) -> None:
        """Try to reach a lost device again; DeviceLostError when it stays away. Engines frozen there may be gone."""

    def close(self) -> None:
        """Let the device go; nothing else is called afterwards."""


class LocalDevice:
    """A device of this machine; see `Device`. folder: for the inputs of launches; limits: of every process of it."""

    def __init__(
        self,
        label: str,
        runtime: str,
        options: TargetOptions,
        folder: Path,
        limits: Limits = LIMITS,
    ) -> None:
        self.label = label
        self.runtime = runtime
        self.options = options
        self._folder = folder
        self._limits = limits
        self._saved: dict[FeedSequence, Path] = {}
        self._kept = KeptEngine(TARGETS[runtime], limits)

    def facts(self) -> DeviceFacts:
        """What the runtime and the system say."""
        return local_facts(self.runtime, self.options.device)

    def build(
        self, onnx_path: Path, folder: Path, feeds: Feeds, float_precision: FloatPrecision | None = None
    ) -> Frozen:
        """Build with the target's `build`, in a process of its own, and ask the engine for its layers."""
        options = in_precision(self.options, float_precision)
        built = isolated_engine.build(TARGETS[self.runtime], onnx_path, options, folder, self._limits)
        if isinstance(built, BuiltOnly):
            raise BuiltOnlyError(built)
        with built as engine:
            return frozen_of(engine, options, tuple(engine.layers(feeds, LAYER_ITERATIONS)))

    def adopt(self, engine: Path) -> Frozen:
        """Open the engine once, to see that it can be."""
        with isolated_engine.load(TARGETS[self.runtime], engine, self.options, self._limits) as opened:
            return frozen_of(opened, self.options, ())

    def outputs(self, frozen: Frozen, feeds: Feeds) -> list[np.ndarray[Any, Any]]:
        """One inference in a process of its own, where the engine stays open for the next one."""
        return self._kept.run(frozen.path, frozen.sha256, frozen.options, feeds)

    def launch(
        self, frozen: Frozen, sequence: FeedSequence, iterations: int, warmup_s: float, seconds: float = 0
    ) -> LaunchResult:
        """One launch; CompressError when the engine's files are not those that were frozen."""
        self._kept.close()  # nothing of it is beside what is timed
        result = launch(self._spec(frozen, sequence, iterations, warmup_s, seconds), self._limits)
        require_frozen(frozen, result)
        return result

    def launch_turns(
        self, engines: Sequence[Fed], iterations: int, warmup_s: float, seed: int
    ) -> list[LaunchResult]:
        """Launches in turns; CompressError as for one."""
        self._kept.close()
        specs = [self._spec(*each, iterations, warmup_s) for each in engines]
        results = launch_turns(specs, seed, self._limits)
        for (frozen, _), result in zip(engines, results, strict=True):
            require_frozen(frozen, result)
        return results

    def _spec(
        self, frozen: Frozen, sequence: FeedSequence, iterations: int, warmup_s: float, seconds: float = 0
    ) -> LaunchSpec:
        if sequence not in self._saved:
            self._saved[sequence] = save_feeds(sequence.feeds, self._folder)
        path, saved = Path(frozen.path).resolve(), self._saved[sequence]
        how = iterations, warmup_s, seconds, len(sequence)
        return LaunchSpec(self.runtime, path, frozen.options, saved, *how)

    def reconnect(self) -> None:
        """This machine is not lost."""

    def close(self) -> None:
        """End the process of the engine that is open."""
        self._kept.close()


def local_facts(runtime: str, device: str) -> DeviceFacts:
    """The facts of a device of this machine."""
    target = TARGETS[runtime]
    return DeviceFacts(
        runtime,
        device,
        target.version(),
        target.facts(device),
        cpu_model(),
        machine_state(gpu_of(runtime, device)),
        weight_limit(),
    )


def in_precision(options: TargetOptions, float_precision: FloatPrecision | None) -> TargetOptions:
    """The options with another float precision, where one is named."""
    return options if float_precision is None else replace(options, float_precision=float_precision)


def frozen_of(engine: Engine, options: TargetOptions, layers: Sequence[Layer]) -> Frozen:
    """An engine's files as they are now."""
    paths = [artefact.path for artefact in engine.artefacts]
    return Frozen(
        path=str(paths[0].resolve()),
        sha256=files_digest(paths),
        bytes=sum(path.stat().st_size for path in paths),
        settings=engine.settings,
        layers=tuple(layers),
        options=options,
        artefacts=engine.artefacts,
    )


def require_frozen(frozen: Frozen, result: LaunchResult) -> None:
    """CompressError when a launch opened other files than were frozen."""
    if result.engine_sha256 != frozen.sha256:
        raise CompressError(
            f"{frozen.path}: the engine changed between launches (SHA-256 {frozen.sha256[:12]}, now "
            f"{result.engine_sha256[:12]}); measure again while nothing writes to it"
        )
