"""Layers before and after, side by side. Engines fuse differently: ONNX nodes tell what belongs together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ...targets.layer import Layer


@dataclass(frozen=True)
class Side:
    """What one engine did for a row: ms is None when any of its layers was not timed, macs when any was not counted."""

    ms: float | None
    precision: str
    type: str
    macs: int | None


@dataclass(frozen=True)
class LayerRow:
    """The same ONNX nodes in the float and in the compressed engine; None where there is no counterpart."""

    name: str
    before: Side | None
    after: Side | None

    @property
    def macs(self) -> int | None:
        """Multiply-accumulates of one sample; None when they could not be counted."""
        counts = [side.macs for side in (self.before, self.after) if side is not None]
        known = [count for count in counts if count is not None]
        return max(known) if len(known) == len(counts) else None

    @property
    def slowest_ms(self) -> float:
        """The longer of both times; 0 where neither was measured, for ordering only."""
        return max((side.ms or 0.0 for side in (self.before, self.after) if side is not None), default=0.0)


def match_layers(before: Sequence[Layer], after: Sequence[Layer]) -> list[LayerRow]:
    """Group the layers of both engines that share an ONNX node, in the order in which `after` executes them.

    A layer without ONNX nodes is matched by its own name.
    """
    root_of: dict[str, str] = {}

    def root(node: str) -> str:
        root_of.setdefault(node, node)
        while root_of[node] != node:
            root_of[node] = root_of[root_of[node]]
            node = root_of[node]
        return node

    for layer in (*after, *before):
        first, *others = _nodes(layer)
        for other in others:
            root_of[root(other)] = root(first)
    groups: dict[str, tuple[list[Layer], list[Layer]]] = {}
    for side, layers in ((1, after), (0, before)):
        for layer in layers:
            groups.setdefault(root(_nodes(layer)[0]), ([], []))[side].append(layer)
    return [LayerRow(_row_name(*pair), _side(pair[0]), _side(pair[1])) for pair in groups.values()]


def heaviness(layer: Layer) -> float:
    """The key that sorts layers by their multiply-accumulates: one that could not be counted may be the heaviest."""
    return layer.macs if layer.macs is not None else math.inf


def _nodes(layer: Layer) -> tuple[str, ...]:
    return layer.onnx_nodes or (layer.name,)


def _row_name(before: Sequence[Layer], after: Sequence[Layer]) -> str:
    """The node both engines know; the heaviest layer's name when they share none."""
    heaviest = max((*before, *after), key=heaviness)
    shared = {n for b in before for n in _nodes(b)} & {n for a in after for n in _nodes(a)}
    return next((node for node in _nodes(heaviest) if node in shared), _nodes(heaviest)[0])


def _side(layers: Sequence[Layer]) -> Side | None:
    if not layers:
        return None
    times = [layer.ms for layer in layers]
    total = sum(t for t in times if t is not None) if None not in times else None
    computing = [layer for layer in layers if layer.macs != 0] or layers
    precisions, types = (_listed(getattr(c, key) for c in computing) for key in ("precision", "type"))
    counts = [layer.macs for layer in layers if layer.macs is not None]
    return Side(total, precisions, types, sum(counts) if len(counts) == len(layers) else None)


def _listed(words: Iterable[str]) -> str:
    return " + ".join(dict.fromkeys(word for word in words if word))
