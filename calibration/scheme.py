"""QuantScheme: which 8-bit grids a runtime accepts, as data that passes can read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

RangeMethod = Literal["minmax", "percentile", "mse", "entropy"]
"""How an activation range is chosen; `calibration/ranges.py` does it."""
RangeChoice = Literal["auto", RangeMethod]
"""The same, or for each tensor the one that moves the network's outputs least."""


@dataclass(frozen=True)
class QuantScheme:
    """The activation grid of INT8 Q/DQ graphs; weights are always signed, per channel, zero point 0.

    | asymmetric | activations      | zero point | accepted by                   |
    |------------|------------------|------------|-------------------------------|
    | False      | int8, [-128,127] | 0          | every runtime                 |
    | True       | uint8, [0, 255]  | any        | onnxruntime, OpenVINO         |
    """

    asymmetric: bool = False

    @property
    def name(self) -> str:
        return "uint8 asymmetric" if self.asymmetric else "int8 symmetric"


def intersect(schemes: Iterable[QuantScheme]) -> QuantScheme:
    """The richest grid that all of `schemes` accept; with none given, the one that every runtime accepts."""
    every = list(schemes)
    return QuantScheme(asymmetric=bool(every) and all(s.asymmetric for s in every))
