"""Which channels of a network a narrower student keeps: in each group that must stay together, the largest weights."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from torch import nn

from ...errors import CompressError
from ..channels.groups import ChannelGroups, parts_of
from ..channels.rounding import channel_step
from ..channels.runs import failure
from ..channels.surgery import Cut, UncuttableError, keep_channels
from .inherited import inherits_channels
from .options import NAME_A_FACTORY
from .student_heads import attentions_of, choose_heads, heads_of, kept_channels, kept_heads, why_whole

if TYPE_CHECKING:
    from ...model import Model
    from ..channels.attention import Attention

WHAT = "distill.student: width"


def choose_channels(module: nn.Module, model: Model, width: float) -> tuple[Cut, list[str]]:
    """The channels to keep of `module`, which runs like the network of `model`; and notes.

    Raises CompressError when nothing can be narrowed, or the narrower network does not run to the same shapes.
    """
    try:
        return _narrowed(module, model, width)
    except UncuttableError as error:
        raise CompressError(f"{WHAT}: {error}. Leave width out. {NAME_A_FACTORY}") from error


def _narrowed(module: nn.Module, model: Model, width: float) -> tuple[Cut, list[str]]:
    attentions = attentions_of(module, model.example_inputs)
    heads = choose_heads(module, attentions, width)
    reason: str | None = None
    # Some attention takes heads x size for its input's width, so that the two must shrink alike. Heads are few, so
    # that rounds coarsely: it comes second.
    for coupled in (False, True) if heads.tensors else (False,):
        cut, sizes = _followed(module, model, width, attentions, coupled)
        cut.add(heads)
        if not cut.tensors:
            raise CompressError(
                f"{WHAT}: no layer can be narrowed to {width}: each makes the network's outputs, or"
                f" has too few channels. Ask for a smaller width, or leave it out. {NAME_A_FACTORY}"
            )
        narrow = copy.deepcopy(module)
        keep_channels(narrow, cut)
        reason = failure(narrow, model)
        if reason is None:
            notes = [_note(width, sizes), *_head_notes(attentions, width)]
            if not inherits_channels(narrow, module, model, cut):
                notes.append(
                    "width: something other than a norm layer mixes channels, such as a shuffle or a softmax over"
                    " them: the kept ones do not compute what they do in the teacher"
                )
            return cut, notes
    raise UncuttableError(
        f"narrowed to {width}, {reason}. Its forward() holds sizes as numbers, or reshapes in a way that cannot be"
        " followed"
    )


def keep_of(channels: int, width: float, parts: int = 1) -> int:
    """How many of `channels` to keep: `width` of them, rounded to a multiple of 8; of less where they are few.

    parts: how many parts of equal size must stay equal; the result is a multiple of it.
    """
    step = channel_step(channels, parts)
    return min(channels, max(step, int(width * channels / step + 0.5) * step))


def _followed(
    module: nn.Module, model: Model, width: float, attentions: list[Attention], coupled: bool
) -> tuple[Cut, list[tuple[int, int]]]:
    """The cut of all but the attention heads; and (channels, kept) of each group.

    coupled: the channels that attention reads become as many as its kept heads have.
    """
    probe = copy.deepcopy(module).eval()
    producers = {
        probe.get_submodule(layer): attention for attention in attentions for layer in attention.producers
    }
    heads = (
        {layer: kept_channels(attention, width) for layer, attention in producers.items()} if coupled else {}
    )
    sizes: list[tuple[int, int]] = []
    dropped: dict[int, tuple[Any, list[int]]] = {}
    groups = ChannelGroups(probe, model.example_inputs, list(producers), WHAT)
    if groups.unfollowed:
        raise UncuttableError(next(iter(groups.unfollowed.values())))
    for group in groups.groups:
        channels, parts = groups.channels(group), parts_of(group)
        # Parts of other channels than the group's own (a concatenation) cannot be kept equal.
        kept = keep_of(channels, width, parts) if channels % parts == 0 else channels
        kept = next((heads[layer] or kept for layer in groups.readers(group) if layer in heads), kept)
        sizes.append((channels, kept))
        if kept < channels:
            dropped[len(sizes) - 1] = group, groups.least(group, kept, groups.magnitude(group))
    cut, whole = groups.cut(module, list(dropped.values()))
    for place, left in zip(dropped, whole, strict=True):
        if left:
            sizes[place] = sizes[place][0], sizes[place][0]
    return cut, sizes


def _note(width: float, sizes: list[tuple[int, int]]) -> str:
    narrowed = [(had, kept) for had, kept in sizes if kept < had]
    had, kept = (sum(column) for column in zip(*narrowed, strict=True)) if narrowed else (0, 0)
    return (
        f"width: {len(narrowed)} of {len(sizes)} channel groups narrowed to {width}, {had} -> {kept} channels"
    )


def _head_notes(attentions: list[Attention], width: float) -> list[str]:
    counts: dict[str, int] = {}
    for a in attentions:
        heads, reason = heads_of(a), why_whole(a)
        note = f"{heads} -> {kept_heads(a, width)} heads"
        if reason:
            note = f"{heads or 'all'} heads stay: {reason}"
        counts[note] = counts.get(note, 0) + 1
    return [f"width: attention: {note} ({count} layers)" for note, count in counts.items()]
