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
    """The grids of INT8 Q/DQ graphs; weights are always signed, per channel, zero point 0.

    weight_limit: the largest magnitude of their integers; 64 where sums of products would saturate above it.
    because: why they are held so small where it is not known that sums saturate; "" where it is.
    both_addends: whether a convolution's output is quantized before something is added to it that no convolution
    made; the sum is then computed on integers, where a runtime would else add in float beside the convolution.
    centred_products: whether both factors of a product of two activations, as in attention, need zero point 0: at
    another the runtime multiplies in float.

    | asymmetric | activations      | zero point | accepted by                   |
    |------------|------------------|------------|-------------------------------|
    | False      | int8, [-128,127] | 0          | every runtime                 |
    | True       | uint8, [0, 255]  | any        | onnxruntime, OpenVINO         |
    """

    asymmetric: bool = False
    weight_limit: int = 127
    both_addends: bool = False
    centred_products: bool = False
    because: str = ""

    @property
    def activations(self) -> str:
        """The grid of activations in words."""
        return "uint8 asymmetric" if self.asymmetric else "int8 symmetric"

    @property
    def name(self) -> str:
        """The whole scheme in words."""
        if self.weight_limit == 127:
            return self.activations
        why = f" ({self.because})" if self.because else ""
        return f"{self.activations}, weights at most {self.weight_limit}{why}"


def intersect(schemes: Iterable[QuantScheme]) -> QuantScheme:
    """The richest grid that all of `schemes` accept; with none given, the one that every runtime accepts."""
    every = list(schemes)
    limit = min((s.weight_limit for s in every), default=127)
    reasons = [s.because for s in every if s.weight_limit == limit]
    return QuantScheme(
        asymmetric=bool(every) and all(s.asymmetric for s in every),
        weight_limit=limit,
        both_addends=bool(every) and all(s.both_addends for s in every),
        centred_products=any(s.centred_products for s in every),
        because=reasons[0] if all(reasons) and reasons else "",
    )
