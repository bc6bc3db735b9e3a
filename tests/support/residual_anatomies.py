"""Anatomies by hand for choices of structure: blocks within blocks, concatenations, attention, and one of real size."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from edgepress.passes.channels.anatomy import Anatomy, LayerUse, Side, Term
from edgepress.passes.channels.kind import Kind
from edgepress.passes.channels.units import Unit
from edgepress.passes.gating.pieces import Latency
from torch import Tensor


def side(*parts: tuple[str, int] | int) -> Side:
    """Channels of several units one after another; a number stands for channels of none."""
    sizes = [part if isinstance(part, int) else part[1] for part in parts]
    owners, first = {}, 0
    for part, size in zip(parts, sizes, strict=True):
        if not isinstance(part, int):
            owners.setdefault(part[0], torch.full((sum(sizes),), -1))[first : first + size] = torch.arange(
                size
            )
        first += size
    return Side(sum(sizes), owners)


def convolution(name: str, inputs: Side, outputs: Side, area: int, blocks: tuple[str, ...] = ()) -> LayerUse:
    return LayerUse(name, "Conv2d", inputs, outputs, (Term(9.0 * area, (inputs, outputs), blocks),), blocks)


def network(units: list[Unit], layers: list[LayerUse]) -> Anatomy:
    params = {}
    for layer in layers:
        params[f"{layer.name}.weight"] = Term(9.0, (layer.inputs, layer.outputs), layer.blocks)
        params[f"{layer.name}.bias"] = Term(1.0, (layer.outputs,), layer.blocks)
    return Anatomy(tuple(units), params, tuple(layers))


def residual() -> Anatomy:
    """A stem, two residual blocks on its channels, the second one within a larger block, and a head."""
    stem, one, two, image, classes = (
        side(("stem", 16)),
        side(("one", 16)),
        side(("two", 24)),
        side(3),
        side(10),
    )
    units = [Unit("stem", Kind.CHANNELS, 16), Unit("one", Kind.CHANNELS, 16), Unit("two", Kind.CHANNELS, 24)]
    units += [Unit(name, Kind.BLOCK, 1) for name in ("first", "outer", "inner")]
    return network(
        units,
        [
            convolution("stem", image, stem, 64),
            convolution("first.a", stem, one, 64, ("first",)),
            convolution("first.b", one, stem, 64, ("first",)),
            convolution("outer.x", stem, stem, 16, ("outer",)),
            convolution("outer.inner.a", stem, two, 16, ("outer", "inner")),
            convolution("outer.inner.b", two, stem, 16, ("outer", "inner")),
            convolution("head", stem, classes, 1),
        ],
    )


def concatenated() -> Anatomy:
    """Three branches into one layer that a fourth unit owns, and a head that reads the first and the fourth again."""
    branches = [(name, 16) for name in ("a", "b", "c")]
    units = [Unit(name, Kind.CHANNELS, size) for name, size in [*branches, ("d", 16)]]
    layers = [convolution(name, side(3), side((name, size)), 16) for name, size in branches]
    layers.append(convolution("d", side(*branches, 2), side(("d", 16)), 16))
    layers.append(convolution("head", side(("a", 16), ("d", 16), ("b", 16)), side(10), 4))
    return network(units, layers)


def attention() -> Anatomy:
    """Heads, the size of each, and the width of the network around: products of three units; 7 tokens."""
    width, heads, size = side(("width", 16)), side(("heads", 6)), side(("size", 16))
    units = [
        Unit("width", Kind.CHANNELS, 16),
        Unit("heads", Kind.HEADS, 6),
        Unit("size", Kind.HEAD_SIZE, 16),
        Unit("block", Kind.BLOCK, 1),
    ]
    block = ("block",)
    params = {
        "qkv.weight": Term(3, (width, heads, size), block),
        "projection.weight": Term(1, (heads, size, width), block),
        "head.weight": Term(10, (width,)),
    }
    products = LayerUse("products", "attention", size, heads, (Term(98, (heads, size), block),), block)
    return Anatomy(tuple(units), params, (products, convolution("head", width, side(10), 1)))


def large(blocks: tuple[int, ...] = (3, 4, 6, 3)) -> Anatomy:
    """Four stages of residual blocks of three layers, as a ResNet has: 36 widths of up to 58 values, and 16 blocks."""
    units, layers, before = [], [], side(3)
    for stage, (count, width, area) in enumerate(
        zip(blocks, (64, 128, 256, 512), (1024, 256, 64, 16), strict=True)
    ):
        units.append(Unit(f"s{stage}", Kind.CHANNELS, width))
        stream = side((f"s{stage}", width))
        layers.append(convolution(f"s{stage}", before, stream, area))
        for name in (f"s{stage}.{place}" for place in range(count)):
            a, b = side((f"{name}.a", width)), side((f"{name}.b", width))
            units += [Unit(f"{name}.{one}", Kind.CHANNELS, width) for one in "ab"]
            units.append(Unit(name, Kind.BLOCK, 1))
            layers += [
                convolution(f"{name}.a", stream, a, area, (name,)),
                convolution(f"{name}.b", a, b, area, (name,)),
                convolution(f"{name}.c", b, stream, area, (name,)),
            ]
        before = stream
    return network(units, [*layers, convolution("head", before, side(100), 1)])


def importance_of(anatomy: Anatomy, seed: int) -> dict[str, Tensor]:
    """Importances of which a block's is as large as those of several channels."""
    drawn = torch.Generator().manual_seed(seed)
    return {
        unit.name: torch.rand(unit.size, generator=drawn) ** 3 * (8 if unit.kind is Kind.BLOCK else 1)
        for unit in anatomy.units
    }


def milliseconds(anatomy: Anatomy, steps: bool = True) -> Latency:
    """A time with a fixed part for each layer, which goes up in steps or evenly, and some that is no layer's."""
    macs = {layer.name: layer.macs[0].factor for layer in anatomy.layers}

    def latency(widths: Mapping[str, tuple[Tensor, Tensor, Tensor]]) -> Tensor:
        total = torch.tensor(3.0, dtype=torch.float64)
        for name, (inputs, outputs, present) in widths.items():
            parts = torch.ceil(inputs / 6) if steps else inputs / 6
            total = total + present * (5.0 + parts * torch.sqrt(outputs) + 0.01 * macs[name])
        return total

    return latency
