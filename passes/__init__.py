"""The passes, by the name that a recipe gives them."""

from __future__ import annotations

from .base import Pass
from .distill import Distill
from .gates import Gates
from .l2 import L2
from .quantize import Quantize
from .tokens import Tokens

PASSES: dict[str, type[Pass]] = {
    Distill.name: Distill,
    Gates.name: Gates,
    L2.name: L2,
    Quantize.name: Quantize,
    Tokens.name: Tokens,
}
