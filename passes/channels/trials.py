"""Trying units out on a network or a part of it: without them it computes what it does with their gates closed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .anatomy import Anatomy
from .assembly import sides_of
from .dissected import Dissected
from .gated import channel_dim, fixed
from .names import joined
from .removal import removed
from .runs import Call, first_line
from .ties import Ties
from .units import Kept, gates_of

NEAR = 1e-6
"""Of the largest output, in binary64, where the order of sums is worth 1e-12."""
_MIXED = "something other than a layer or a norm mixes its channels"
_NO_SUM = "what reads its channels does not merely sum over them, as where weights are standardized"


@dataclass(frozen=True)
class Failure:
    """Why units cannot be taken out, in words. running: the modules that then do not run, if so, outermost first."""

    reason: str
    running: tuple[str, ...] = ()


@dataclass
class _Run:
    """outputs: every tensor of floating point. read: what some layers are first given, by name, in their order.

    running: the modules that are running, outermost first. error: why it did not come to its end; empty when it did.
    """

    outputs: list[Tensor] = field(default_factory=list)
    read: dict[str, Tensor] = field(default_factory=dict)
    running: list[str] = field(default_factory=list)
    error: str = ""


def dissected_as(module: nn.Module, found: Sequence[Ties]) -> Dissected:
    """A network or part taken for one of these units, enough to gate and to cut it; nothing of it is counted."""
    return Dissected(Anatomy(tuple(ties.unit for ties in found), {}, ()), sides_of(module, found))


def tried(part: nn.Module, name: str, call: Call, found: Sequence[Ties], kept: Kept) -> Failure | None:
    """Why a part of a network does not do without what is not kept as with closed gates; None when it does.

    name: of the part in the network, "" for all of it. call: how it is run. found: the units, named as in the part.
    """
    dissected = dissected_as(part, found)
    sides = dissected.sides
    gates = gates_of(kept, dissected.anatomy.units)
    readers = {layer: side.kept(kept) for layer, side in sides.reads.items() if side.owned_by(kept)}
    gated = fixed(part, dissected, {unit: gates[unit] for unit in kept})
    closed = _run(part, gated, call, readers)
    try:
        smaller = removed(part, dissected.removal(kept))
    except Exception as error:  # indices that a tensor does not have
        return Failure(f"it cannot be taken out: {first_line(error)}")
    left = _run(smaller, smaller, call, readers)
    for run in (closed, left):
        if run.error:
            running = tuple(joined(name, place) for place in run.running)
            place = next(reversed(running), "") or "the network"
            return Failure(f"without it {place} does not run: {run.error}", running)
    if [x.shape for x in closed.outputs] != [x.shape for x in left.outputs]:
        return Failure("without it the outputs have another shape")
    if all(near(a, b) for a, b in zip(closed.outputs, left.outputs, strict=True)):
        return None
    if mixed := _mixed(part, closed.read, left.read, readers):
        return Failure(f"{_MIXED}, before {joined(name, mixed)}")
    return Failure(_NO_SUM if readers else _MIXED)


def near(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors of one shape are the same but for the order of sums."""
    return not a.numel() or float((a - b).abs().max()) <= NEAR * float(a.abs().max())


def _run(watched: nn.Module, module: nn.Module, call: Call, readers: Mapping[str, object]) -> _Run:
    """What happens in a network when a module, it or one around it, is called; its inputs are copied first."""
    run = _Run()
    handles = []
    for name, part in watched.named_modules():
        handles.append(part.register_forward_pre_hook(partial(_enter, run, name, name in readers)))
        handles.append(part.register_forward_hook(partial(_leave, run)))
    try:
        with torch.no_grad():
            returned = module(*_copied(call.given), **_copied(call.named))
        run.outputs = [x for x in _tensors(returned) if x.is_floating_point() and x.numel()]
    except Exception as error:  # forward() raises whatever its author's code raises
        run.error = first_line(error)
    finally:
        for handle in handles:
            handle.remove()
    return run


def _enter(run: _Run, name: str, reads: bool, module: nn.Module, given: tuple[Any, ...]) -> None:
    run.running.append(name)
    if reads:
        run.read.setdefault(name, given[0])


def _leave(run: _Run, module: nn.Module, given: object, returned: object) -> None:
    run.running.pop()


def _copied(given: Any) -> Any:
    if isinstance(given, Tensor):
        return given.clone()
    if isinstance(given, dict):
        return {key: _copied(value) for key, value in given.items()}
    return type(given)(map(_copied, given)) if type(given) in (tuple, list) else given


def _tensors(returned: Any) -> Iterator[Tensor]:
    if isinstance(returned, Tensor):
        yield returned
    elif isinstance(returned, (tuple, list)):
        for each in returned:
            yield from _tensors(each)
    elif isinstance(returned, Mapping):
        yield from _tensors(list(returned.values()))


def _mixed(
    part: nn.Module,
    whole: Mapping[str, Tensor],
    less: Mapping[str, Tensor],
    readers: Mapping[str, Sequence[int]],
) -> str | None:
    """The first layer that is given something else where channels are gone than where they are closed."""
    for name, read in whole.items():  # in the order in which they run
        dim = channel_dim(part.get_submodule(name), read)
        stays = read.index_select(dim, torch.tensor(readers[name], dtype=torch.long, device=read.device))
        if name in less and (stays.shape != less[name].shape or not near(stays, less[name])):
            return name
    return None
