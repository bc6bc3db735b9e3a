"""What the files of pruned networks are called in the folder of a run."""

from __future__ import annotations

WEIGHTS, WIDTHS = "pruned.safetensors", "widths.json"
SIBLINGS = "pruned-[01]*.safetensors"
"""A pattern of `sibling`."""


def sibling(share: str) -> str:
    """Weights of another size out of the same training; share: of the cost that is left, as "0.8"."""
    return f"pruned-{share}.safetensors"
