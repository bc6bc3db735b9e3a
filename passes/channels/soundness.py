"""Which units can be taken out: tried out at random, all of them together; where that fails, each alone first.

Alone, a unit is tried out in the smallest part of the network that it lies in, which takes a fraction of the time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from itertools import takewhile
from typing import TYPE_CHECKING

import torch
from torch import nn

from .anatomy import Whole
from .awake import awake
from .followers import with_followers
from .kind import Kind
from .names import above
from .removal import removed
from .runs import Call, calls_of
from .ties import Ties
from .trials import Failure, dissected_as, tried
from .units import Unit

if TYPE_CHECKING:
    from ...model import Model

_UNTIED = "what it returns and what it takes are not the same channels, as where it has no residual"


def sound(model: Model, found: Sequence[Ties]) -> tuple[list[Ties], list[Whole]]:
    """Those of the units that can be taken out exactly, all at once, and the others with the reasons.

    What else a unit owns may be found here; it is in the ties that are returned.
    """
    trial = awake(model)
    network = _Network(trial.module, Call(trial.example_inputs, {}, None))
    blocks = [ties for ties in found if ties.unit.kind is Kind.BLOCK]
    right = [ties for ties in found if ties.unit.kind is not Kind.BLOCK]
    wrong: dict[str, str] = {}
    if network.failure(right) is not None:
        right, wrong = _alone(network, right)
        wrong |= (further := _wrong(network, [], right))
        right = [ties for ties in right if ties.unit.name not in further]
    wrong |= network.untied(right, blocks)
    blocks = [ties for ties in blocks if ties.unit.name not in wrong]
    wrong |= (further := _wrong(network, right, blocks))
    blocks = [ties for ties in blocks if ties.unit.name not in further]
    return [*right, *blocks], [Whole(*each) for each in wrong.items()]


def random_kept(units: Sequence[Unit], seed: int) -> dict[str, tuple[int, ...]]:
    """About half of each unit's choices, at least one; of blocks none."""
    kept: dict[str, tuple[int, ...]] = {}
    for unit in units:
        drawn = torch.Generator().manual_seed(seed + sum(unit.name.encode()))
        count = int(torch.randint(1, max(2, unit.size), (), generator=drawn))
        order = torch.randperm(unit.size, generator=drawn)[:count].tolist()
        kept[unit.name] = () if unit.kind is Kind.BLOCK else tuple(sorted(order))
    return kept


class _Network:
    """The network that units are tried out on, called so."""

    def __init__(self, module: nn.Module, call: Call) -> None:
        self.module, self._calls = module, {"": call}

    def failure(self, found: Sequence[Ties], scope: str = "") -> Failure | None:
        """Why units cannot be taken out together of the part that is called `scope`; None when they can."""
        kept = random_kept([ties.unit for ties in found], seed=0)
        within = [ties.within(scope) for ties in found]
        return tried(self.module.get_submodule(scope), scope, self._calls[scope], within, kept)

    def untied(self, right: Sequence[Ties], blocks: Sequence[Ties]) -> dict[str, str]:
        """The blocks that no longer keep their shape in the network without some choices of the other units."""
        kept = random_kept([ties.unit for ties in right], seed=0)
        smaller = removed(self.module, dissected_as(self.module, right).removal(kept))
        layers = {ties.unit.name: smaller.get_submodule(ties.unit.name) for ties in blocks}
        calls = calls_of(smaller, self._calls[""].given, layers.values())
        return {name: _UNTIED for name, layer in layers.items() if not calls[id(layer)][0].keeps_shape}

    def scopes(self, found: Iterable[Ties]) -> dict[str, str]:
        """The smallest part of the network that each unit lies in, by the unit's name, and that is called once."""
        smallest = {ties.unit.name: _common(ties.modules) for ties in found}
        around = {scope for name in smallest.values() for scope in above(name)} - {""}
        modules = {scope: self.module.get_submodule(scope) for scope in around}
        calls = calls_of(self.module, self._calls[""].given, modules.values())
        self._calls |= {
            name: calls[id(part)][0] for name, part in modules.items() if len(calls.get(id(part), ())) == 1
        }
        return {
            unit: next(scope for scope in above(name) if scope in self._calls)
            for unit, name in smallest.items()
        }


def _alone(network: _Network, found: Sequence[Ties]) -> tuple[list[Ties], dict[str, str]]:
    """Those of the units that can be taken out alone, with the attributes that follow them; the others, with why."""
    right: list[Ties] = []
    wrong: dict[str, str] = {}
    scopes = network.scopes(found)
    for ties in found:
        again = partial(_failure_of_one, network, scopes[ties.unit.name])
        failure = again(ties)
        fit = ties if failure is None else with_followers(network.module, ties, failure, again)
        if fit is not None:
            right.append(fit)
        elif failure is not None:
            wrong[ties.unit.name] = _reason(ties, failure)
    return right, wrong


def _reason(ties: Ties, failure: Failure) -> str:
    """Why a unit is none: what does not run, or else what was taken for something else than it seemed."""
    return failure.reason if failure.running else ties.doubt or failure.reason


def _failure_of_one(network: _Network, scope: str, ties: Ties) -> Failure | None:
    return network.failure([ties], scope)


def _common(names: Iterable[str]) -> str:
    """The innermost module around all that are named, itself none of them."""
    shared = takewhile(
        lambda level: len(set(level)) == 1, zip(*(name.split(".")[:-1] for name in names), strict=False)
    )
    return ".".join(level[0] for level in shared)


def _wrong(network: _Network, right: list[Ties], found: list[Ties]) -> dict[str, str]:
    """Which of the units cannot go beside those that are right, halving until each is found, with the reasons."""
    failure = network.failure([*right, *found]) if found else None
    if failure is None:
        return {}
    if len(found) == 1:
        return {found[0].unit.name: _reason(found[0], failure)}
    first, second = found[: len(found) // 2], found[len(found) // 2 :]
    wrong = _wrong(network, right, first)
    good = [ties for ties in first if ties.unit.name not in wrong]
    return wrong | _wrong(network, [*right, *good], second)
