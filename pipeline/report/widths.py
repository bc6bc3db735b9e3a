"""Widths of layers before and after pruning, in stages as their names tell them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any

from ..pages.words import UNKNOWN
from .details import name_in, number_in

LAYERS = 400
"""Most rows; of more layers those that nothing was taken from are left out first."""
MANY = 16
"""Rows, from which they stand in two columns."""
LONG = 20
"""Rows of a stage, from which it may be broken over two columns."""


@dataclass(frozen=True)
class Width:
    """How many channels, heads or dimensions there were, and how many of them are left."""

    had: int
    kept: int

    @staticmethod
    def of(pair: object) -> Width | None:
        """A pair [had, kept] of a pass's details; None where it is none of counts."""
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            return None
        had, kept = map(number_in, pair)
        if had is None or kept is None or had % 1 or kept % 1 or not 0 <= kept <= had:
            return None
        return Width(int(had), int(kept))

    @property
    def changed(self) -> bool:
        """Whether anything is gone."""
        return self.kept < self.had

    def __str__(self) -> str:
        return f"{self.had:,} → {self.kept:,}" if self.changed else f"{self.had:,}"


def width_text(width: Width | None) -> str:
    """A width before and after; "unknown" for none."""
    return UNKNOWN if width is None else str(width)


@dataclass(frozen=True)
class WidthRow:
    """A layer. label: its name inside its stage; gone: whether it lay in a block that was removed."""

    name: str
    label: str
    type: str
    gone: bool
    inputs: Width | None
    outputs: Width | None

    @property
    def changed(self) -> bool:
        """Whether anything was taken from it; where that is not known, as if it was."""
        return self.gone or any(width is None or width.changed for width in (self.inputs, self.outputs))

    @property
    def only_inputs(self) -> bool:
        """Whether it reads fewer channels and makes as many as before."""
        if self.inputs is None or self.outputs is None:
            return False
        return self.inputs.changed and not self.outputs.changed

    @property
    def unsized(self) -> bool:
        """Whether it is one whose channels are not told apart, as of an attention that stays whole."""
        return self.outputs is not None and self.outputs.had == 0

    @property
    def title(self) -> str:
        """All that there is to tell, for who points at it."""
        if self.unsized:
            return f"{self.name} ({self.type}): {'removed' if self.gone else 'left whole'}"
        told = ", ".join(f"{side} {width_text(width)}" for side, width in self.sides)
        return f"{self.name} ({self.type}): {'removed; it had ' if self.gone else ''}{told}"

    @property
    def sides(self) -> list[tuple[str, Width | None]]:
        """Both sides; of a layer that is gone as they were."""
        pairs = (("inputs", self.inputs), ("outputs", self.outputs))
        return [(side, Width(w.had, w.had) if self.gone and w is not None else w) for side, w in pairs]


@dataclass(frozen=True)
class Stage:
    """Layers that follow each other and share the beginning of their names; widest: what the widest of them had."""

    name: str
    widest: int
    rows: list[WidthRow]

    @property
    def long(self) -> bool:
        """Whether it may be broken over two columns."""
        return len(self.rows) > LONG


@dataclass(frozen=True)
class Widths:
    """All layers in the network's order. count: how many there are; shown: how many of them are in the stages."""

    stages: list[Stage]
    count: int
    shown: int
    gone: int

    @property
    def changed(self) -> list[WidthRow]:
        """Of those that are shown, the layers that lost any."""
        return [row for stage in self.stages for row in stage.rows if row.changed]

    @property
    def many(self) -> bool:
        """Whether they stand in two columns."""
        return self.shown > MANY


def widths(layers: Sequence[Mapping[str, Any]]) -> Widths:
    """The layers of a pass's details, in stages."""
    shown = (
        layers if len(layers) <= LAYERS else [layer for layer in layers if _row(layer, "").changed][:LAYERS]
    )
    places = _places([name_in(layer, "name") for layer in shown])
    stages = []
    for stage, pairs in groupby(zip(places, shown, strict=True), key=lambda pair: pair[0][0]):
        rows = [_row(layer, label) for (_, label), layer in pairs]
        widest = max((row.outputs.had for row in rows if row.outputs is not None), default=0)
        stages.append(Stage(stage, widest, rows))
    return Widths(stages, len(layers), len(shown), sum(layer.get("gone") is True for layer in layers))


def _row(layer: Mapping[str, Any], label: str) -> WidthRow:
    inputs, outputs = (Width.of(layer.get(side)) for side in ("inputs", "outputs"))
    gone = layer.get("gone") is True
    return WidthRow(name_in(layer, "name"), label, name_in(layer, "type"), gone, inputs, outputs)


def _places(names: Sequence[str]) -> list[tuple[str, str]]:
    """(stage, name inside it) of each layer: "layer1", "0.conv1"; "blocks.3", "mlp.fc1"; "", "conv1".

    A stage is the beginning of a name up to the first part that holds a digit, as stages and blocks are numbered, after
    the beginning that all names share; without one it is all but the last part. A stage of one layer is none.
    """
    parts = [name.split(".") for name in names]
    shared = _shared(parts)
    split = [_split(own, shared) for own in parts]
    places: list[tuple[str, str]] = []
    for stage, group in groupby(split, key=itemgetter(0)):
        found = list(group)
        alone = len(found) == 1 and stage
        places += [("", f"{stage}.{found[0][1]}")] if alone else found
    return places


def _split(parts: Sequence[str], shared: int) -> tuple[str, str]:
    """A name's stage and the rest; the first `shared` parts number no stage, as all names begin with them."""
    inner = parts[:-1]
    numbered = (i + 1 for i in range(shared, len(inner)) if any(map(str.isdigit, inner[i])))
    cut = next(numbered, len(inner))
    return ".".join(parts[:cut]), ".".join(parts[cut:])


def _shared(parts: Sequence[Sequence[str]]) -> int:
    """How many parts all names begin with in common, their last parts apart."""
    count = 0
    for column in zip(*(own[:-1] for own in parts), strict=False):
        if len(set(column)) > 1:
            break
        count += 1
    return count
