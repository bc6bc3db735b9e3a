"""The contract of a target: a module that fits `Target` and imports its vendor's library inside functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from ..calibration.scheme import QuantScheme
from ..errors import CompressError

if TYPE_CHECKING:
    from .layer import Layer

Feeds = Mapping[str, "np.ndarray[Any, Any]"]
FloatPrecision = Literal["default", "f32"]
Mode = Literal["latency", "throughput"]


FAKE = "fake"
"""The runtime that simulated devices name: none."""


@dataclass(frozen=True)
class TargetOptions:
    """A device of a runtime, and how to build for it.

    device: what follows the colon in `openvino:CPU`; "" means the runtime's own default device.
    float_precision: what the float layers run in: "default" is the runtime's choice (BF16 on some CPUs),
        "f32" is forced.
    threads: 0 means the runtime's own choice.
    compute_capabilities: TensorRT only: the GPUs to build for ahead of time, as "SM86".
    batch: fix a varying batch to this size when the model is compiled, which is faster; 0 leaves it varying.
    mode: what is timed: one inference at a time, or as many at once as the device likes.
    streams: inferences at once in throughput mode; 0 means the runtime's own choice.
    copies: whether a timed inference takes its inputs from the caller and gives its outputs back, as an application
        does; without, they stay where the runtime has them, as vendors' own tools time it. Latency mode only.
    """

    device: str = ""
    float_precision: FloatPrecision = "default"
    threads: int = 0
    compute_capabilities: tuple[str, ...] = ()
    batch: int = 0
    mode: Mode = "latency"
    streams: int = 0
    copies: bool = True

    def declared(self) -> dict[str, Any]:
        """The options as records keep them: what must be the same before two times are compared."""
        return {**asdict(self), "compute_capabilities": list(self.compute_capabilities)}


@dataclass(frozen=True)
class Artefact:
    """A file the build left behind, for the run folder."""

    path: Path
    kind: str


@dataclass(frozen=True)
class Lint:
    """One thing that a runtime would refuse, compute wrongly, run in float, or clip without a word."""

    node: str
    severity: Literal["refused", "wrong", "float", "clips"]
    problem: str
    fix: str


class Engine(Protocol):
    """A model built for one device."""

    settings: dict[str, Any]
    """The effective settings, as the runtime tells them: threads, streams, precision hint."""
    artefacts: tuple[Artefact, ...]
    """The first one is the file that the target's `load` opens."""

    def run(self, feeds: Feeds) -> list[np.ndarray[Any, Any]]:
        """One synchronous inference; arrays in and out by value, in the model's output order."""

    def prepared(self, feeds: Feeds) -> Callable[[], object]:
        """An inference on inputs that are in place already, whose outputs stay where they are.

        Good until it is asked for other inputs, which may take the place of these.
        """

    def run_many(self, feeds: Feeds, count: int) -> None:
        """`count` inferences, as many at once as the options say, and back when all are done."""

    def layers(self, feeds: Feeds, iterations: int) -> list[Layer]:
        """Every executed layer with its executed precision and mean time over `iterations`."""


class Target(Protocol):
    """What each module of this package provides, and `TARGETS` lists.

    No other module asks for a runtime by its name: what is particular to one is a fact that each target states here.
    """

    name: str
    """As recipes and devices files name it."""
    scheme: QuantScheme
    """The grids of INT8 that it accepts on this machine."""
    saturates: bool
    """Whether sums of INT8 products saturate on CPUs without VNNI, where weights must be smaller (`graphs.vnni`)."""
    own_float_default: bool
    """Whether floats are computed in what the runtime chooses when it is not told, as BF16, and not in f32."""
    builds_ahead: bool
    """Whether it builds for devices that are not here, which the option `compute_capabilities` names."""
    bakes_in_batch: bool
    """Whether an engine's file has its batch and its float precision built in, so that `load` gives it no others."""
    default_device: str
    """The device that it takes where none is named."""
    engine_suffix: str
    """The suffix of the file that `load` opens: `.xml`. Where it is `.onnx`, a file may be a model or an engine."""
    packages: tuple[str, ...]
    """The distributions whose versions decide what it computes, as package indexes name them: part of every record, and
    of what decides whether an earlier measurement still holds. Those that are not installed are left out."""

    def version(self) -> str | None:
        """The library's version, None when it is not installed."""

    def devices(self) -> list[str]:
        """The devices here, as they may follow the colon; empty when none."""

    def unavailable(self, device: str) -> str | None:
        """Why nothing can *run* on `device` here, in words; None when it can."""

    def facts(self, device: str) -> dict[str, str]:
        """What the runtime says of `device`: its full name, what it can compute in; empty when it is not here."""

    def can_build(self) -> str | None:
        """Why nothing can even be *built* here, in words; None when it can (also without a GPU)."""

    def capabilities(self) -> list[str]:
        """What `compute_capabilities` may name here; empty where nothing can be built ahead."""

    def build(self, onnx_path: Path, options: TargetOptions, folder: Path) -> Engine | BuiltOnly:
        """Build `onnx_path`, leave engine files in `folder`; CompressError when the runtime refuses it.

        The model comes as a file because it is built in a child process (`isolated_engine`), over SSH on another
        machine, to which its bytes are sent.
        """

    def load(self, path: Path, options: TargetOptions) -> Engine:
        """Open a file that `build` left (its first artefact), in this process or another one."""

    def files(self, path: Path) -> list[Path]:
        """Every file of the engine whose first one is `path`, that one first."""

    def lint(self, onnx_path: Path) -> list[Lint]:
        """What this runtime would refuse, run in float or clip silently, each with its fix."""


@dataclass(frozen=True)
class BuiltOnly:
    """Engines that were built but cannot run here."""

    reason: str
    artefacts: tuple[Artefact, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)


def require_feeds(feeds: Feeds, names: Sequence[str]) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays for exactly the model's inputs, contiguous; CompressError when others are given."""
    if set(feeds) != set(names):
        raise CompressError(
            f"the model takes the inputs {sorted(names)}, but was fed {sorted(feeds)}; "
            "feed each input by its name"
        )
    return {name: np.ascontiguousarray(feeds[name]) for name in names}
