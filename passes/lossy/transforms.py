"""Transforms between weights and codes (Shi et al., ICCV 2023, section 3.1): a code is rounded, and decoded again.

All are odd, take w = 0 to code 0, and have two numbers that learn: the step s and the edge e, both above 0.

| name        | code of w, for w > 0                                         |
|-------------|--------------------------------------------------------------|
| scale       | w / s                                                        |
| edge-scale  | w / 2e up to e, so that all of it rounds to 0; then 1/2 + (w - e) / s |
| multi-scale | w / s up to e; then e / s + (w - e) / 2s                      |
| log         | (e / s) log(1 + w / e): steps of s at 0, and wider ones outwards |
| exp         | (e / s) (exp(w / e) - 1): steps of s at 0, and narrower ones outwards |
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .names import TransformName

LARGEST = 127.0
"""Codes end there: with zero and their negatives 255 values, which an .l2z file holds as one byte each."""
OUTER = 2.0
"""How much wider multi-scale's steps are beyond its edge."""
_EXP_REACH = 12.0
"""Weights beyond so many edges count as being there: exp() would overflow."""


@dataclass(frozen=True)
class Transform:
    """One of the transforms with its numbers, two scalars; gradients pass through to them."""

    name: TransformName
    step: Tensor
    edge: Tensor

    def encode(self, weight: Tensor) -> Tensor:
        """Codes before rounding, of the same shape."""
        size, s, e = weight.abs(), self.step, self.edge
        if self.name == "scale":
            return weight / s
        if self.name == "edge-scale":
            codes = torch.where(size <= e, size / (2 * e), 0.5 + (size - e) / s)
        elif self.name == "multi-scale":
            codes = torch.where(size <= e, size / s, e / s + (size - e) / (OUTER * s))
        elif self.name == "log":
            codes = (e / s) * torch.log1p(size / e)
        else:
            codes = (e / s) * torch.expm1(torch.clamp(size / e, max=_EXP_REACH))
        return weight.sign() * codes

    def decode(self, codes: Tensor) -> Tensor:
        """The inverse of `encode`."""
        size, s, e = codes.abs(), self.step, self.edge
        if self.name == "scale":
            return codes * s
        if self.name == "edge-scale":
            values = torch.where(size <= 0.5, size * (2 * e), e + (size - 0.5) * s)
        elif self.name == "multi-scale":
            values = torch.where(size <= e / s, size * s, e + (size - e / s) * (OUTER * s))
        elif self.name == "log":
            values = e * torch.expm1(size * (s / e))
        else:
            values = e * torch.log1p(size * (s / e))
        return codes.sign() * values


EDGES: dict[TransformName, float] = {
    "edge-scale": 0.6,
    "scale": 1.0,
    "multi-scale": 4.0,
    "log": 8.0,
    "exp": 8.0,
}
"""Where the edge starts, in steps."""
EVEN: frozenset[TransformName] = frozenset({"edge-scale", "scale"})
"""Whose values lie on a line from code 1 on."""


def largest_weight(name: TransformName) -> float:
    """The weight of the largest code, in units, with the numbers that a transform starts with."""
    return float(Transform(name, torch.tensor(1.0), torch.tensor(EDGES[name])).decode(torch.tensor(LARGEST)))
