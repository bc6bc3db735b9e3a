"""edgepress: trained vision networks onto edge devices, with proof. Nothing heavy is imported before it is used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .version import __version__ as __version__

if TYPE_CHECKING:
    from .model import Model
    from .passes import PASSES
    from .pipeline.packing.l2z_file import load
    from .pipeline.recipe.sections import Recipe
    from .pipeline.run import compress
    from .targets import TARGETS

__all__ = ["PASSES", "TARGETS", "Model", "Recipe", "compress", "load"]

_HOMES = {
    "Model": ".model",
    "PASSES": ".passes",
    "Recipe": ".pipeline.recipe.sections",
    "TARGETS": ".targets",
    "compress": ".pipeline.run",
    "load": ".pipeline.packing.l2z_file",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name], __name__), name)
