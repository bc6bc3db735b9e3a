"""The passes, by the name that a recipe gives them."""

from __future__ import annotations

from .base import Pass
from .quantize import Quantize

PASSES: dict[str, type[Pass]] = {
    Quantize.name: Quantize,
}
