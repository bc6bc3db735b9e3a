"""Smaller versions of a network, drawn at random: what a table of latencies is measured on."""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING

from ...passes.channels.anatomy import presence
from ...passes.channels.kind import Kind
from ...passes.channels.units import Kept, gates_of
from ...passes.gating.widths import step_of

if TYPE_CHECKING:
    from ...passes.channels.anatomy import Anatomy

LEAST_SIZE = 0.15
"""Of the multiply-accumulates of a layer whose both sides shrink, about, in the smallest networks."""
SPREAD = 2.0
"""By what factor a width may be above or below the share that the size asks for."""
MOST_BLOCKS = 0.5
"""Share of the blocks that are out, at most and about."""


def drawn_kept(anatomy: Anatomy, draw: random.Random, round_to: int) -> dict[str, tuple[int, ...]]:
    """What stays of each unit in a network of random size: its first choices, in the steps that `gates` cuts in.

    Sizes are spread evenly on a logarithmic scale. Which choices stay does not matter to time.
    """
    size, out = math.exp(draw.uniform(math.log(LEAST_SIZE), 0)), draw.uniform(0, MOST_BLOCKS)
    kept: dict[str, tuple[int, ...]] = {}
    for unit in anatomy.units:
        if unit.kind is Kind.BLOCK:
            if draw.random() < out:
                kept[unit.name] = ()
            continue
        share = math.sqrt(size) * SPREAD ** draw.uniform(-1, 1)
        step = step_of(unit, round_to)
        count = max(1, round(share * unit.size / step)) * step
        if count < unit.size:
            kept[unit.name] = tuple(range(count))
    return kept


def layer_widths(anatomy: Anatomy, kept: Kept) -> dict[str, tuple[int, int]]:
    """The inputs and outputs of each layer that is there when only `kept` stays."""
    gates = gates_of(kept, anatomy.units)
    return {
        layer.name: (len(layer.inputs.kept(kept)), len(layer.outputs.kept(kept)))
        for layer in anatomy.layers
        if presence(layer.blocks, gates) > 0
    }
