"""Attention: where its heads lie, what of it depends on them, and what it multiplies.

Heads are independent of one another between the layers that make queries, keys and values and the one that reads the
heads, so that no tracing is needed. A unit is either of heads or of head size: a row belongs to a head and to a
dimension of it, and one gate decides it. Heads come first; head size is offered where it is asked for and heads are
not, or cannot be removed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from torch import Tensor, nn

from .anatomy import Whole
from .attention_layers import Layout, heads_of, holds_heads, layouts_of, producers_of
from .attention_probe import NotRunError, Probe, structure_of, within
from .attention_ties import ties_of_attention
from .attention_trials import Trial, stands_alone, trial_of
from .kind import Kind
from .names import above, joined, lies_in
from .runs import Call, calls_of
from .ties import Ties

_MULTIHEAD = (
    "nn.MultiheadAttention takes embed_dim / num_heads for the size of a head, and holds the rows of all heads in one"
    " weight that it checks against that: only an attention with a layer such as `qkv` can lose heads"
)
_NO_LAYERS = (
    "its queries, keys and values are not made by an nn.Linear or pointwise nn.Conv2d each, or by one for all, of"
    " usual names such as qkv, or q_proj, k_proj and v_proj"
)
_NO_READER = "it has no layer that reads as many channels as its heads make"
_ONE_GROUP = "its heads share one head of keys and values"
_MIXED = {
    Kind.HEADS: "its heads are not independent of one another, or its rows are in no known order",
    Kind.HEAD_SIZE: "dimensions of its heads are not independent of one another, as where a norm or a rotary embedding"
    " mixes those of its queries and keys",
}


@dataclass(frozen=True, eq=False)
class Attention:
    """An attention of a network.

    producers: the layers that make queries, keys and values, by name. layout: what their rows are, None where the sizes
    of the layers do not fit together. ties: what belongs to its choices, where these are independent of one another.
    reason: why it must be left whole all the same; empty where removal is exact.
    """

    name: str
    producers: tuple[str, ...]
    layout: Layout | None = None
    ties: Ties | None = None
    reason: str = ""

    @property
    def removable(self) -> Ties | None:
        """The ties, where without any choices it computes what it does with these masked."""
        return None if self.reason else self.ties


def find_attentions(
    module: nn.Module, inputs: tuple[Tensor, ...], kinds: frozenset[Kind] = frozenset({Kind.HEADS})
) -> tuple[list[Attention], list[Whole]]:
    """The attentions of a network that runs on `inputs`; and of what is left whole, the reasons.

    The second has those of the first that have a reason, and what looks like attention but has no layers that are
    understood. kinds: what is to be removed, HEADS or HEAD_SIZE; others are passed over.
    """
    places = {
        name: _Place(module, name, layouts_of(module, name))
        for name, part in module.named_modules()
        if holds_heads(part) and producers_of(part)
    }
    calls = calls_of(module, inputs, {part for place in places.values() for part in place.scopes.values()})
    outcomes: dict[str, _Outcome] = {}
    found = [_described(place, kinds, calls, outcomes) for place in places.values()]
    whole = [Whole(attention.name, attention.reason) for attention in found if attention.reason]
    return found, [*whole, *(_unknown(module, set(places)) if kinds else ())]


def _unknown(module: nn.Module, known: set[str]) -> Iterator[Whole]:
    """What holds a number of heads, is no part of a known attention, and has none within."""
    named = {name for name, part in module.named_modules() if heads_of(part) is not None}
    for name in sorted(named - known):
        below = any(other != name and lies_in(other, name) for other in named | known)
        if not below and known.isdisjoint(above(name)):
            multihead = isinstance(module.get_submodule(name), nn.MultiheadAttention)
            yield Whole(name, _MULTIHEAD if multihead else _NO_LAYERS)


class _Place:
    """Where an attention may be, with the guesses about it.

    scopes: the smallest module that has all its layers, and two that this lies in, by name.
    """

    def __init__(self, module: nn.Module, name: str, layouts: list[Layout]) -> None:
        self.name, self.layouts = name, layouts
        self.producers = tuple(joined(name, child) for child in producers_of(module.get_submodule(name)))
        layers = {layer for layout in layouts for layer in (*layout.producers, layout.projection)}
        self.widths = {module.get_parameter(f"{layer}.weight").shape[1] for layer in self.producers}
        holding = [scope for scope in above(name) if all(lies_in(layer, scope) for layer in layers)]
        self.scopes = {scope: module.get_submodule(scope) for scope in holding[:3]}


@dataclass(frozen=True)
class _Outcome:
    """What came of trying: which layout holds, the first where none does; the trial; why there is none."""

    scope: str
    layout: int = 0
    trial: Trial | None = None
    reason: str = ""


def _described(
    place: _Place, kinds: frozenset[Kind], calls: dict[int, list[Call]], outcomes: dict[str, _Outcome]
) -> Attention:
    """The attention at a place. outcomes: of those that were tried before, by what is the same of all alike."""
    if not place.layouts:
        return Attention(place.name, place.producers, reason=_NO_READER)
    attention = Attention(place.name, place.producers, place.layouts[0])
    scope = next((name for name, part in place.scopes.items() if id(part) in calls), None)
    if scope is None:
        return replace(attention, reason="it is not run")
    part, call = place.scopes[scope], calls[id(place.scopes[scope])][0]
    tried: list[Attention] = []
    for kind in (kind for kind in (Kind.HEADS, Kind.HEAD_SIZE) if kind in kinds):
        key = f"{kind} {place.name[len(scope) :]} {structure_of(part, call)}"
        if key not in outcomes:
            outcomes[key] = _outcome(place, scope, call, kind)
        outcome = outcomes[key]
        layout, ties, trial = place.layouts[outcome.layout], None, outcome.trial
        if trial is not None:
            ties = ties_of_attention(within(scope, part), layout, kind, trial.way.moved(outcome.scope, scope))
        reason = trial.reason if trial else outcome.reason
        tried.append(replace(attention, layout=layout, ties=ties, reason=reason))
        if not reason:
            return tried[-1]
    return replace(tried[0], reason="; ".join(one.reason for one in tried)) if tried else attention


def _outcome(place: _Place, scope: str, call: Call, kind: Kind) -> _Outcome:
    """Whether and how an attention loses choices of this kind."""
    sizes = place.layouts[0].sizes
    if kind is Kind.HEADS and sizes.groups < 2:
        return _Outcome(scope, reason="it has one head" if sizes.heads < 2 else _ONE_GROUP)
    if kind is Kind.HEAD_SIZE and sizes.size != sizes.value_size:
        words = f"its heads have {sizes.size} dimensions of keys and {sizes.value_size} of values"
        return _Outcome(scope, reason=words)
    try:
        probe = Probe(scope, place.scopes[scope], call, place.widths)
        for index, layout in enumerate(place.layouts):
            # Of a wrong order, dimensions may stand alone where its heads do not.
            if sizes.groups > 1 and not stands_alone(probe, layout, Kind.HEADS):
                continue
            if kind is Kind.HEADS or stands_alone(probe, layout, kind):
                return _Outcome(scope, index, trial_of(probe, layout, kind))
            if sizes.groups > 1:
                return _Outcome(scope, index, reason=_MIXED[kind])
    except NotRunError as error:
        return _Outcome(scope, reason=f"alone it does not run ({error})")
    return _Outcome(scope, reason=_MIXED[Kind.HEADS if sizes.groups > 1 else kind])
