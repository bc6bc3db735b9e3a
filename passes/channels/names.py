"""Names of the parts of a network."""

from __future__ import annotations


def joined(name: str, child: str) -> str:
    """The full name of a child."""
    return f"{name}.{child}" if name and child else name or child


def lies_in(layer: str, name: str) -> bool:
    """Whether a layer is the module `name`, or a part of it."""
    return not name or layer == name or layer.startswith(f"{name}.")


def above(name: str) -> list[str]:
    """The module `name`, then those that it lies in, up to the network itself."""
    parts = name.split(".") if name else []
    return [".".join(parts[:count]) for count in range(len(parts), -1, -1)]
