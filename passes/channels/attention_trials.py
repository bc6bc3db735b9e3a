"""Whether heads, or dimensions of heads, can be removed from an attention: tried on a copy of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .assembly import sides_of
from .attention_layers import Layout
from .attention_probe import Chosen, Masks, NotRunError, Probe, tensors_of
from .attention_ties import Owners, Way, choices_of, doubtful_widths, queries_of, ties_of_attention
from .dissected import removal_of
from .kind import Kind
from .removal import removed
from .ties import Ties
from .units import gates_of


@dataclass(frozen=True, eq=False)
class Trial:
    """A way to remove choices; reason: why it does not leave what the masked attention computes, empty if it does."""

    way: Way
    reason: str


def stands_alone(probe: Probe, layout: Layout, kind: Kind) -> bool:
    """Whether each choice is where the layout says, and independent of the others.

    That is so where the rows of some choices do not matter once these are masked where the heads are read, and do
    matter else. Equal shapes would not tell: rows in another order give an attention of the same sizes.
    """
    gone = probe.subset(choices_of(layout, kind))
    owners = {f"{name}.weight": {0: rows.owner(kind)} for name, rows in layout.producers.items()}
    rows = _chosen(owners, gone)
    return not probe.changes(rows, *_masks(layout, kind, gone)) and probe.changes(rows)


def trial_of(probe: Probe, layout: Layout, kind: Kind) -> Trial:
    """The first way that removes choices exactly, of those that stand alone; the likeliest one where none does."""
    gone = probe.subset(choices_of(layout, kind))
    tried: list[Trial] = []
    for way in _ways(probe, layout, kind):
        tried.append(Trial(way, _failure(probe, ties_of_attention(probe.root, layout, kind, way), gone)))
        if not tried[-1].reason:
            return tried[-1]
    return tried[0]


def _ways(probe: Probe, layout: Layout, kind: Kind) -> Iterator[Way]:
    """Likelier ones first."""
    deciding, idle = _own_tensors(probe, layout, kind)
    names = sorted(doubtful_widths(probe.root, layout, kind))
    widths = dict.fromkeys(frozenset(some) for some in ((), *([name] for name in names), names))
    for own in (deciding, deciding | idle) if idle else (deciding,):
        for some in widths:
            for scaled in (True, False) if kind is Kind.HEAD_SIZE else (False,):
                yield Way(own, some, scaled)


def _failure(probe: Probe, ties: Ties, gone: Tensor) -> str:
    """Why the choices of the ties are not removed exactly, in words; empty when they are."""
    words = "heads" if ties.unit.kind is Kind.HEADS else "dimensions of its heads"
    stay = (~gone).nonzero().flatten().tolist()
    sides = sides_of(probe.root, [ties])
    for choices in (tuple(stay), tuple(stay[:1])):
        kept = {ties.unit.name: choices}
        gates = gates_of(kept, [ties.unit])
        reads = {layer: side.mask(gates) for layer, side in sides.reads.items()}
        makes = {layer: side.mask(gates) for layer, side in sides.makes.items()}
        smaller = removed(probe.root, removal_of(sides, kept))
        try:
            if not probe.near(probe.run(smaller), probe.run(probe.root, reads, makes)):
                return f"with fewer {words} it computes something else than without the others"
        except NotRunError as error:
            return f"with fewer {words} it does not run ({error}): its forward() has sizes from elsewhere"
    return ""


def _own_tensors(probe: Probe, layout: Layout, kind: Kind) -> tuple[Owners, Owners]:
    """Tensors beside those of its layers that have a part for each choice: tables of positions, biases, gates.

    First those that decide outputs, then those that have the shape and decide nothing.
    """
    gone = probe.subset(choices_of(layout, kind))
    columns = layout.columns.owner(kind)
    labels = [torch.arange(len(gone)), columns, *(rows.owner(kind) for rows in layout.producers.values())]
    if kind is Kind.HEADS:
        labels.append(columns[layout.columns.place == 0])  # of each head of the queries
    known = {
        f"{layer}.{leaf}" for layer in (*layout.producers, layout.projection) for leaf in ("weight", "bias")
    }
    deciding: Owners = {}
    idle: Owners = {}
    for name, tensor in tensors_of(probe.root).items():
        if name in known:
            continue
        dims = [{dim: o} for dim, size in enumerate(tensor.shape) for o in labels if len(o) == size]
        for owner in dims:
            chosen = _chosen({name: owner}, gone)
            if not probe.changes(chosen, *_masks(layout, kind, gone)):
                (deciding if probe.changes(chosen) else idle)[name] = owner
                break
    return deciding, idle


def _chosen(owners: Owners, choices: Tensor) -> Chosen:
    """The indices of the given choices, (choices,) bool."""
    return {name: {dim: choices[owner] for dim, owner in dims.items()} for name, dims in owners.items()}


def _masks(layout: Layout, kind: Kind, gone: Tensor) -> tuple[Masks, Masks]:
    """What closes the choices that are gone: of what the projection reads, and of the queries for a head size."""
    reads = {layout.projection: (~gone[layout.columns.owner(kind)]).double()}
    makes = {
        name: ((owner < 0) | ~gone[owner.clamp(min=0)]).double()
        for name, owner in queries_of(layout, kind).items()
    }
    return reads, makes
