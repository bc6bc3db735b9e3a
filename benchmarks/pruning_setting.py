"""The networks of pruning_curve.py, how each is trained, quantized and judged, and where what is finished is kept."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from edgepress.passes.training.precision import emulates_bf16
from int8_peers import EXAMPLES, _read
from reporting import RESULTS

FLIPS = ["flip_horizontal", "flip_vertical"]
AMP = "off" if emulates_bf16(torch.device("cpu")) else "bf16"
"""Of large networks, which are trained in BF16 where the CPU computes in it."""
TEACHER = {"temperature": 2.0, "teacher_weight": 0.7}
"""What every training learns from, beside labels: the original's outputs, as `distill` has it by default."""


@dataclass(frozen=True)
class Limit:
    """What one of our networks must reach: at most `share` of the cost is left, at most one point is lost."""

    cost: str
    share: float


@dataclass(frozen=True)
class Network:
    """An example's network.

    epochs: of a training in all, the gates' own included; training: the rest of that section; seconds_a_step: of the
    original, both cores, for the first estimate of the time that is left. quantize: options, the same for all;
    calibration: samples for that alone. timed: inferences a launch. targets: of each method, shares of what it is
    asked for.
    """

    recipe: Path
    epochs: int
    training: dict[str, Any]
    seconds_a_step: float
    quantize: dict[str, Any]
    calibration: int
    timed: int
    targets: dict[str, tuple[float, ...]]
    limits: tuple[Limit, ...] = ()


BASELINES = ("depth", "uniform", "depth-width", "tp-l1", "tp-group-norm")
BY_TABLE = ("gates-latency", "solver")
"""Methods that are driven by a latency table."""
AS_SHIPPED = {"sensitivity_samples": 0}
"""Of `quantize`: its defaults, without a table that nobody looks at here."""
NETWORKS = {
    "solar-cnn": Network(
        EXAMPLES / "solar" / "cnn.yaml",
        epochs=6,
        training={"batch": 32, "lr": 5e-4, "augment": FLIPS},
        seconds_a_step=0.32,
        quantize=AS_SHIPPED,
        calibration=128,
        timed=100,
        targets={
            **dict.fromkeys(BASELINES, (0.45,)),
            "gates-latency": (0.45,),
            "gates-macs": (0.3, 0.2),
            "gates-params": (0.3,),
            "solver": (0.45,),
        },
        limits=(Limit("latency", 0.5), Limit("params", 0.3)),
    ),
    "solar-vit": Network(
        EXAMPLES / "solar" / "vit.yaml",
        epochs=3,
        training={"batch": 16, "lr": 1e-6, "amp": AMP, "augment": FLIPS},
        seconds_a_step=1.35,
        quantize={"ranges": "minmax", "equalization": "on", "sensitivity_samples": 0},
        calibration=32,
        timed=30,
        targets={
            **dict.fromkeys(BASELINES, (0.65,)),
            "gates-latency": (0.65,),
            "gates-macs": (0.65,),
            "solver": (0.65,),
        },
        limits=(Limit("latency", 0.65),),
    ),
    "digits-cnn": Network(
        EXAMPLES / "digits" / "cnn.yaml",
        epochs=8,
        training={"batch": 32, "lr": 1e-3, "augment": ["shift"]},
        seconds_a_step=0.02,
        quantize=AS_SHIPPED,
        calibration=128,
        timed=100,
        targets={
            **dict.fromkeys(BASELINES, (0.7, 0.55)),
            "gates-latency": (0.7, 0.55),
            "gates-macs": (0.5, 0.3),
            "gates-params": (0.3,),
            "solver": (0.55,),
        },
    ),
}
QUICK = {"train": 64, "calibration": 16, "validation": 32, "test": 64}  # samples


@dataclass(frozen=True)
class Cell:
    """One training. target: the share asked for; amount: what a baseline is cut by so as to reach it."""

    method: str
    target: float
    seed: int
    amount: float | None = None

    @property
    def label(self) -> str:
        """As tables and launches name it."""
        return f"{self.method} {self.target:g} seed {self.seed}"


ORIGINAL = Cell("original", 1.0, 0)


@dataclass(frozen=True)
class Setting:
    """What a benchmark was asked for; every process opens it anew."""

    name: str
    epochs: int
    table: Path | None
    quick: bool = False

    @property
    def network(self) -> Network:
        """Its network."""
        return NETWORKS[self.name]

    @property
    def folder(self) -> Path:
        """Where everything of it is kept."""
        return RESULTS / "pruning_curve" / (f"{self.name}-quick" if self.quick else self.name)

    def place(self, cell: Cell) -> Path:
        """Where a training is kept: elsewhere when how it is trained, its amount or its table has changed.

        Not when code has: whoever changes that deletes the folder, hours of training, or not.
        """
        decided_by = [self.training(self.epochs), TEACHER, cell.amount]
        if cell.method in BY_TABLE and self.table is not None:
            decided_by.append(hashlib.sha256(self.table.read_bytes()).hexdigest())
        digest = hashlib.sha256(json.dumps(decided_by).encode()).hexdigest()[:8]
        return self.folder / f"{cell.method}-{cell.target:g}-{cell.seed}-{digest}"

    def training(self, epochs: int) -> dict[str, Any]:
        """The section `training` of so many epochs."""
        return {**self.network.training, "epochs": epochs, "keep": "best"}


@dataclass(frozen=True)
class Bench:
    """A setting with its network and data at hand."""

    setting: Setting
    model: Any
    context: Any
    kept: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def feeds(self) -> dict[str, Any]:
        """One input of the engines."""
        return {"input": self.context.data.calibration.example()[0].numpy()}


def opened(setting: Setting) -> Bench:
    """Read the network and its data; what is read in every epoch is held in memory, decoded."""
    model, data, context, _ = _read(setting.network.recipe)
    samples = QUICK if setting.quick else {}
    parts = {
        name: part.head(samples.get(name, len(part)))
        for name in ("train", "calibration", "validation", "test")
        if (part := getattr(data, name)) is not None
    }
    held = {name: _in_memory(part) for name, part in parts.items() if name != "test"}
    return Bench(setting, model, replace(context, data=replace(data, **parts | held)))


def _in_memory(part: Any) -> Any:
    from edgepress.calibration.data import Part
    from edgepress.calibration.samples import ArraySamples

    inputs, labels = part.batch(range(len(part)))
    return Part(part.name, ArraySamples(inputs, labels))
