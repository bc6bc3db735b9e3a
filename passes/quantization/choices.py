"""What the steps of `quantize` choose between, and what was chosen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import fx

from ...calibration.scheme import RangeChoice
from .bias_correction import Center
from .judging import Noise
from .quantizers import Grid
from .state import State


@dataclass(frozen=True)
class StepOptions:
    """What a pass asks of the steps. what: its name, for messages; the others as `Quantize` has them."""

    what: str
    ranges: RangeChoice = "auto"
    equalization: Literal["auto", "on", "off"] = "auto"
    bias_correction: bool = True
    softmax_sqnr_db: float = 30.0


@dataclass(frozen=True)
class Choices:
    """What was decided of one graph: enough to fit it again to other samples.

    kept: the layers in float, and why; ranges: one way for all tensors, or "auto"; bias: None leaves them as they are.
    """

    graph: fx.GraphModule
    rescaled: tuple[str, ...]
    kept: Mapping[str, str]
    both_addends: bool
    ranges: RangeChoice
    bias: Center | None


@dataclass(frozen=True)
class Calibrated:
    """A graph with biases; the grids by way of choosing them; and softmaxes too fine for theirs, with the reason."""

    graph: fx.GraphModule
    grids: Mapping[RangeChoice, Mapping[str, Grid]]
    fine: Mapping[str, str]


@dataclass(frozen=True)
class Fitted:
    """A state with the choices that it was fitted by, what it adds to the outputs, and what the report says of it.

    before_biases: what it added before biases were corrected.
    """

    state: State
    choices: Choices
    noise: Noise | None
    before_biases: Noise | None
    notes: tuple[str, ...] = ()
