"""Anatomies by hand: a small one with every kind of tie, and deep ones of the sizes that real networks have."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from edgepress.passes.channels.anatomy import Anatomy, LayerUse, Side, Term
from edgepress.passes.channels.kind import Kind
from edgepress.passes.channels.units import Gates, Unit
from torch import Tensor


def owned(unit: str, size: int, each: int = 1) -> dict[str, Tensor]:
    """`each` indices for every choice, side by side."""
    return {unit: torch.arange(size).repeat_interleave(each)}


def tied() -> Anatomy:
    """Two convolutions whose outputs are concatenated with three fixed channels, a grouped one (two parts), a flatten
    to 4 positions, heads of size 4, and a block with channels of its own inside."""
    units = (
        Unit("a", Kind.CHANNELS, 24),
        Unit("b", Kind.CHANNELS, 16),
        Unit("g", Kind.CHANNELS, 8, parts=2),
        Unit("heads", Kind.HEADS, 6),
        Unit("block", Kind.BLOCK, 1),
        Unit("inside", Kind.CHANNELS, 32),
    )
    image, classes = Side(3), Side(10)
    a, b = Side(24, owned("a", 24)), Side(16, owned("b", 16))
    both = Side(
        43,
        {
            "a": torch.cat([torch.arange(24), torch.full((19,), -1)]),
            "b": torch.cat([torch.full((24,), -1), torch.arange(16), torch.full((3,), -1)]),
        },
    )
    grouped = Side(16, {"g": torch.arange(8).repeat(2)})
    flat = Side(64, owned("g", 8, 8))
    heads = Side(24, owned("heads", 6, 4))
    inside = Side(32, owned("inside", 32))
    params = {
        "a.weight": Term(27, (image, a)),
        "b.weight": Term(9, (a, b)),
        "b.bias": Term(1, (b,)),
        "g.weight": Term(4.5, (both, grouped)),
        "inside.weight": Term(1, (heads, inside), ("block",)),
        "out.weight": Term(1, (inside, heads), ("block",)),
        "scale": Term(7),
        "head.weight": Term(1, (flat, classes)),
    }
    layers = (
        LayerUse("a", "Conv2d", image, a, (Term(27 * 64, (image, a)),)),
        LayerUse("b", "Conv2d", a, b, (Term(9 * 64, (a, b)),)),
        LayerUse("g", "Conv2d", both, grouped, (Term(4.5 * 16, (both, grouped)),)),
        LayerUse("inside", "Linear", heads, inside, (Term(16, (heads, inside), ("block",)),), ("block",)),
        LayerUse("out", "Linear", inside, heads, (Term(16, (inside, heads), ("block",)),), ("block",)),
        LayerUse("head", "Linear", flat, classes, (Term(1, (flat, classes)),)),
    )
    return Anatomy(units, params, layers)


def chain(widths: list[int], blocks: int = 0) -> Anatomy:
    """Convolutions one after another, on maps that shrink, the last of which makes 10 outputs; so many of the inner
    ones lie each in a block with a unit of its own."""
    units, layers, params = [], [], {}
    last = Side(3)
    for i, width in enumerate(widths):
        side = Side(width, owned(f"c{i}", width))
        units.append(Unit(f"c{i}", Kind.CHANNELS, width))
        positions = max(1, 1024 >> (2 * i * 4 // len(widths)))
        layers.append(LayerUse(f"c{i}", "Conv2d", last, side, (Term(9 * positions, (last, side)),)))
        params[f"c{i}.weight"] = Term(9, (last, side))
        if i < blocks:
            hidden = Side(width, owned(f"h{i}", width))
            units += [Unit(f"h{i}", Kind.CHANNELS, width), Unit(f"b{i}", Kind.BLOCK, 1)]
            for name, sides in (("in", (side, hidden)), ("out", (hidden, side))):
                macs = Term(positions, sides, (f"b{i}",))
                layers.append(LayerUse(f"b{i}.{name}", "Conv2d", *sides, (macs,), (f"b{i}",)))
                params[f"b{i}.{name}.weight"] = Term(1, sides, (f"b{i}",))
        last = side
    params["head.weight"] = Term(1, (last, Side(10)))
    layers.append(LayerUse("head", "Linear", last, Side(10), (Term(1, (last, Side(10))),)))
    return Anatomy(tuple(units), params, tuple(layers))


def random_gates(anatomy: Anatomy, seed: int, soft: bool = False) -> Gates:
    """Half open, or anything from 0 to 1."""
    draws = torch.Generator().manual_seed(seed)
    values = {unit.name: torch.rand(unit.size, generator=draws) for unit in anatomy.units}
    return values if soft else {name: (value > 0.5).float() for name, value in values.items()}


def milliseconds(widths: Mapping[str, tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """Something that no sum of terms is: a fixed cost for each layer, and roots."""
    read, made, present = (torch.stack(column) for column in zip(*widths.values(), strict=True))
    return (present * (1 + (read * made).sqrt())).sum().float()
