"""The passes, by the name that a recipe gives them."""

from __future__ import annotations

from .base import Pass
from .distill import Distill
from .quantize import Quantize

PASSES: dict[str, type[Pass]] = {
    Distill.name: Distill,
    Quantize.name: Quantize,
}
