"""What a unit owns beside what was found: told by what does not run without it, and kept where it then does.

A forward() may keep a width as a number of its own, and a reshape may lay what is in several positions side by side, as
where a Swin stage ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from torch import Tensor, nn

from .names import above
from .ties import NONE, Ties
from .trials import Failure

_STEPS = 4
"""So many kinds of modules may be in the way of one unit; each is found when all before it are done with."""


def with_followers(
    module: nn.Module, ties: Ties, failure: Failure, again: Callable[[Ties], Failure | None]
) -> Ties | None:
    """The ties with what else follows the unit, so that it can be taken out; None where nothing helps.

    failure: what went wrong without it, in `module`. again: tries ties out.
    """
    for _ in range(_STEPS):
        for longer in _candidates(module, ties, failure):
            found = again(longer)
            if found is None:
                return longer
            if found.running and found.running != failure.running:  # it fails elsewhere: one step further
                ties, failure = longer, found
                break
        else:
            return None
    return None


def _candidates(module: nn.Module, ties: Ties, failure: Failure) -> Iterator[Ties]:
    yield from _laid_side_by_side(ties, failure)
    for place in reversed(failure.running):
        for sizes in _numbers(module, ties, place):
            yield replace(ties, sizes=ties.sizes | sizes)


def _numbers(module: nn.Module, ties: Ties, place: str) -> Iterator[dict[tuple[str, str], Tensor]]:
    """Numbers of a module, and its like around what the unit owns, that are as large as a tensor that it owns of.

    All at once, then each alone; one of several numbers counts, as in a shape.
    """
    owners = {len(owner): owner for owner in (*ties.tensors.values(), *ties.reads.values())}
    kind = type(module.get_submodule(place))
    around = sorted({outer for name in ties.modules for outer in above(name)})
    found: dict[str, dict[tuple[str, str], Tensor]] = {}
    for name in around:
        layer = module.get_submodule(name)
        for attribute, value in vars(layer).items() if type(layer) is kind else ():
            width = _width(value, owners)
            if width is not None and (name, attribute) not in ties.sizes:
                found.setdefault(attribute, {})[name, attribute] = owners[width]
    if found:
        yield {key: owner for each in found.values() for key, owner in each.items()}
    if len(found) > 1:
        yield from found.values()


def _width(value: object, owners: dict[int, Tensor]) -> int | None:
    numbers = value if isinstance(value, (tuple, list)) else [value]
    return next((number for number in numbers if type(number) is int and number in owners), None)


def _laid_side_by_side(ties: Ties, failure: Failure) -> Iterator[Ties]:
    """Where the layer that does not run is a multiple as wide as what the unit owns of it: that the rest is alike.

    The unit's channels come again and again in their order, or each comes several times in a row.
    """
    place = failure.running[-1] if failure.running else ""
    widths = {len(owner) for (name, _), owner in ties.tensors.items() if name.rpartition(".")[0] == place}
    for width in sorted(widths):
        for spread in (_tiled, _repeated):
            yield replace(
                ties,
                tensors={key: spread(owner, width) for key, owner in ties.tensors.items()},
                sizes={key: spread(owner, width) for key, owner in ties.sizes.items()},
                reads={key: spread(owner, width) for key, owner in ties.reads.items()},
                makes={key: spread(owner, width) for key, owner in ties.makes.items()},
                norms={key: spread(owner, width) for key, owner in ties.norms.items()},
            )


def _tiled(owner: Tensor, width: int) -> Tensor:
    first = _first(owner, width)
    return owner if first is None else first.repeat(width // len(first))


def _repeated(owner: Tensor, width: int) -> Tensor:
    first = _first(owner, width)
    return owner if first is None else first.repeat_interleave(width // len(first))


def _first(owner: Tensor, width: int) -> Tensor | None:
    """What is owned of so wide a tensor, where that is its start, and a part of it."""
    count = int((owner != NONE).sum())
    starts = (
        len(owner) == width
        and 0 < count < width
        and width % count == 0
        and bool((owner[:count] != NONE).all())
    )
    return owner[:count] if starts else None
