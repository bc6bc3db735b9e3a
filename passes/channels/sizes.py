"""Attributes in which a forward() keeps a width: found by what does not run without it, and kept where it helps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from torch import Tensor, nn

from .ties import Ties
from .trials import Failure

_STEPS = 4
"""So many kinds of modules may keep one width; each is found when all before it follow."""


def followed_by_sizes(
    module: nn.Module, ties: Ties, failure: Failure, again: Callable[[Ties], Failure | None]
) -> Ties | None:
    """The ties with further attributes that follow the unit, so that it can be taken out; None where none help.

    failure: what went wrong without them, in `module`. again: tries ties out. A candidate is a number, one of a shape
    included, as large as a tensor that the unit owns of, in a module that was running; the innermost come first.
    """
    for _ in range(_STEPS):
        for more in _candidates(module, ties, failure):
            longer = replace(ties, sizes=ties.sizes | more)
            found = again(longer)
            if found is None:
                return longer
            if found.running and found.running != failure.running:  # it fails elsewhere: one step further
                ties, failure = longer, found
                break
        else:
            return None
    return None


def _candidates(module: nn.Module, ties: Ties, failure: Failure) -> Iterator[dict[tuple[str, str], Tensor]]:
    """What may follow: all numbers of a module, then each alone; and those of its like around what the unit owns of."""
    owners = {len(owner): owner for owner in (*ties.tensors.values(), *ties.reads.values())}
    around = {above for name in ties.modules for above in _above(name)}
    for place in reversed(failure.running):
        kind = type(module.get_submodule(place))
        alike = [name for name in sorted(around) if type(module.get_submodule(name)) is kind]
        found: dict[str, dict[tuple[str, str], Tensor]] = {}
        for name in alike:
            for attribute, value in vars(module.get_submodule(name)).items():
                width = _width(value, owners)
                if width is not None and (name, attribute) not in ties.sizes:
                    found.setdefault(attribute, {})[name, attribute] = owners[width]
        if found:
            yield {key: owner for each in found.values() for key, owner in each.items()}
        if len(found) > 1:
            yield from found.values()


def _width(value: object, owners: dict[int, Tensor]) -> int | None:
    """The width that a number is, or one of several numbers."""
    numbers = value if isinstance(value, (tuple, list)) else [value]
    return next((number for number in numbers if type(number) is int and number in owners), None)


def _above(name: str) -> Iterator[str]:
    yield name
    while name:
        name = name.rpartition(".")[0]
        yield name
