"""Dissecting a network: which channels, heads and blocks it can do without, and what of it each of them owns.

torch-pruning finds what is tied together, `attention` the heads, `blocks` the blocks. Nothing of it is believed:
all that is found is taken out at random, and must leave what the gated network computes; what does not is left whole.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from .anatomy import Whole, nothing_of
from .assembly import anatomy_of, sides_of
from .attention import find_attentions
from .blocks import find_blocks
from .channel_ties import ties_of
from .dissected import Dissected
from .groups import ChannelGroups
from .kind import Kind
from .named import Named
from .names import joined
from .soundness import sound
from .surgery import UncuttableError
from .ties import Ties, conflict
from .units import Unit

if TYPE_CHECKING:
    from ...model import Model


@dataclass(frozen=True)
class Rules:
    """What may be made smaller, by names or patterns of layers and of what holds them, which stands for all in it.

    only: units of which a maker is named, and blocks that are. keep: layers that lose neither inputs nor outputs, nor
    a block that they lie in; keep wins.
    """

    kinds: frozenset[Kind] = frozenset({Kind.CHANNELS, Kind.HEADS, Kind.BLOCK})
    only: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()


def dissect(model: Model, what: str, rules: Rules = Rules()) -> Dissected:
    """What the network of `model`, one made of modules, can do without; each part of it tried out.

    what: who asks, as messages name it. CompressError where torch-pruning is not installed, or a rule names nothing.
    """
    found, whole = _candidates(model, what, rules)
    found, wrong = sound(model, found)
    sides = sides_of(model.module, found)
    return Dissected(anatomy_of(model, found, sides, [*whole, *wrong]), sides)


def nothing_to_remove(model: Model, what: str, rules: Rules = Rules()) -> str:
    """Why the rules leave nothing to make smaller, "" where they do: quickly, as nothing is tried out. Errors alike."""
    found, whole = _candidates(model, what, rules)
    return "" if found else nothing_of(whole)


def _candidates(model: Model, what: str, rules: Rules) -> tuple[list[Ties], list[Whole]]:
    """All that may go by the rules, and what may not, with the reasons."""
    named = Named(model.module, what, rules.only, rules.keep)
    kinds = rules.kinds & {Kind.HEADS, Kind.HEAD_SIZE}
    attentions, whole = find_attentions(model.module, model.example_inputs, kinds)
    heads = [attention.removable for attention in attentions if attention.removable is not None]
    made = [layer for attention in attentions for layer in attention.producers]
    channels, uncut = _channels(model, what, made) if Kind.CHANNELS in rules.kinds else ([], [])
    blocks = find_blocks(model.module, model.example_inputs) if Kind.BLOCK in rules.kinds else {}
    names = [joined(container, key) for container, keys in blocks.items() for key in keys]
    whole = [*whole, *uncut]
    found: list[Ties] = []
    for ties in [*channels, *heads, *(Ties(Unit(name, Kind.BLOCK, 1)) for name in names)]:
        reason = named.refusal(ties)
        clash = conflict(ties, found)
        if clash is not None:
            reason = f"{clash[0]} belongs to {clash[1]} too"
        if reason is None:
            found.append(ties)
        else:
            whole.append(Whole(ties.unit.name, reason))
    return found, whole


def _channels(model: Model, what: str, kept_whole: Sequence[str]) -> tuple[list[Ties], list[Whole]]:
    """The groups of channels that are understood, and the others with the reasons."""
    probe = copy.deepcopy(model.module).eval()
    layers: list[nn.Module] = [probe.get_submodule(name) for name in kept_whole]
    found: list[Ties] = []
    whole: list[Whole] = []
    try:
        groups = ChannelGroups(probe, model.example_inputs, layers, what)
    except UncuttableError as error:
        return [], [Whole("the channels of all layers", str(error))]
    whole += [Whole(name, reason) for name, reason in groups.unfollowed.items()]
    whole += [Whole(name, "its channels are tied to those inside an attention") for name in groups.tied]
    for group in groups.groups:
        try:
            ties = ties_of(groups, group)
        except UncuttableError as error:
            whole.append(Whole(groups.names[id(group[0].dep.target.module)], str(error)))
            continue
        if ties.unit.size > 1:
            found.append(ties)
    return found, whole
