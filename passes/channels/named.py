"""Which parts of a network users choose by name or pattern, and what of it may go by that."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

from ...calibration.named import did_you_mean
from ...errors import CompressError
from ...macs import listed
from .kind import Kind
from .names import above, lies_in
from .ties import Ties


class Named:
    """What `only` and `keep` name of one network; keep wins.

    what: who asks, as messages name it. CompressError for a pattern that matches no part of the network.
    """

    def __init__(self, module: nn.Module, what: str, only: Sequence[str], keep: Sequence[str]) -> None:
        self._all = not only
        self._only = _parts(module, only, f"{what}: only")
        self._keep = _parts(module, keep, f"{what}: keep")

    def refusal(self, ties: Ties) -> str | None:
        """Why a unit is left whole; None when it may go."""
        if not self._keep.isdisjoint(ties.makers):
            return "named by `keep`"
        if not self._keep.isdisjoint(ties.modules):
            return "what reads it is named by `keep`"
        if ties.unit.kind is Kind.BLOCK and any(lies_in(name, ties.unit.name) for name in self._keep):
            return "what lies in it is named by `keep`"
        if not self._all and self._only.isdisjoint(ties.makers):
            return "not named by `only`"
        return None


def _parts(module: nn.Module, patterns: Sequence[str], option: str) -> frozenset[str]:
    """All that the patterns match and all that lies in it; a layer that has several names by each of them."""
    parts = {name: part for name, part in module.named_modules(remove_duplicate=False) if name}
    matched: set[str] = set()
    for pattern in patterns:
        found = {name for name in parts if fnmatchcase(name, pattern)}
        if not found:
            outermost = listed([name for name, _ in module.named_children()])
            hint = did_you_mean(pattern, list(parts)) or f"; its outermost parts are {outermost}"
            raise CompressError(f"{option}: {pattern!r} names no layer or block of this network{hint}")
        matched |= found
    within = {name for name in parts if not matched.isdisjoint(above(name))}
    # An activation that many places share says nothing of them; weights that they share do.
    weighted = {id(parts[name]) for name in within if any(True for _ in parts[name].parameters())}
    return frozenset(within | {name for name, part in parts.items() if id(part) in weighted})
