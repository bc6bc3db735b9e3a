"""Trying units out: taken out at random, they must leave what the gated network computes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .anatomy import Whole
from .dissected import Dissected
from .gated import Fixed, Gated
from .removal import removed
from .runs import first_line
from .ties import Ties
from .units import Kept, Kind, Unit, gates_of

if TYPE_CHECKING:
    from ...model import Model

NEAR = 1e-6
"""Of the largest output, in binary64, where the order of sums is worth 1e-12."""
MIXED = "something other than a layer or a norm mixes its channels"
Assemble = Callable[[Sequence[Ties]], Dissected]


def sound(model: Model, found: Sequence[Ties], assemble: Assemble) -> tuple[list[Ties], list[Whole]]:
    """Those of the units that can be taken out exactly, all at once, and the others with the reasons."""
    trial = _fit_to_be_tried(model)
    wrong = _wrong(trial, [], list(found), assemble)
    return [ties for ties in found if ties.unit.name not in wrong], [Whole(*each) for each in wrong.items()]


def random_kept(units: Sequence[Unit], seed: int) -> dict[str, tuple[int, ...]]:
    """About half of each unit's choices, at least one; of blocks none."""
    kept: dict[str, tuple[int, ...]] = {}
    for unit in units:
        drawn = torch.Generator().manual_seed(seed + sum(unit.name.encode()))
        count = int(torch.randint(1, max(2, unit.size), (), generator=drawn))
        order = torch.randperm(unit.size, generator=drawn)[:count].tolist()
        kept[unit.name] = () if unit.kind is Kind.BLOCK else tuple(sorted(order))
    return kept


def _wrong(trial: Model, right: list[Ties], found: list[Ties], assemble: Assemble) -> dict[str, str]:
    """Which of the units cannot go beside those that are right, halving until each is found, with the reasons."""
    reason = _difference(trial, [*right, *found], assemble) if found else None
    if reason is None:
        return {}
    if len(found) == 1:
        return {found[0].unit.name: reason}
    first, second = found[: len(found) // 2], found[len(found) // 2 :]
    wrong = _wrong(trial, right, first, assemble)
    good = [ties for ties in first if ties.unit.name not in wrong]
    return wrong | _wrong(trial, [*right, *good], second, assemble)


def _difference(trial: Model, found: Sequence[Ties], assemble: Assemble) -> str | None:
    """Why units cannot be taken out at random, in words; None when they can: with all blocks there, and without."""
    dissected = assemble(found)
    units = dissected.anatomy.units
    kept = random_kept(units, seed=0)
    blocks = {unit.name for unit in units if unit.kind is Kind.BLOCK}
    tries = [{name: left for name, left in kept.items() if name not in blocks}, *([kept] if blocks else [])]
    return next((why for each in tries if (why := _unlike(trial, dissected, each))), None)


def _unlike(trial: Model, dissected: Dissected, kept: Kept) -> str | None:
    gates = {
        name: Fixed(gate) for name, gate in gates_of(kept, dissected.anatomy.units).items() if name in kept
    }
    try:
        closed = _outputs(trial, Gated(trial.module, dissected, gates))
        left = _outputs(trial, removed(trial.module, dissected.removal(kept)))
    except Exception as error:  # forward() raises whatever its author's code raises
        return f"without it the network does not run: {first_line(error)}"
    if [x.shape for x in closed] != [x.shape for x in left]:
        return "without it the outputs have another shape"
    near = all(
        float((a - b).abs().max()) <= NEAR * float(a.abs().max()) for a, b in zip(closed, left, strict=True)
    )
    return None if near else MIXED


def _outputs(trial: Model, module: nn.Module) -> list[Tensor]:
    found = replace(trial, module=module).run(*trial.example_inputs)
    return [x for x in found if isinstance(x, Tensor) and x.is_floating_point() and x.numel()]


def _fit_to_be_tried(model: Model) -> Model:
    """The network with weights that hide nothing and, where its forward() can do that, in binary64."""
    for trial in _variants(model):
        try:
            if all(bool(torch.isfinite(x).all()) for x in _outputs(trial, trial.module)):
                return trial
        except Exception:  # some forward() makes float32 tensors of its own
            continue
    return model


def _variants(model: Model) -> Iterator[Model]:
    wide = tuple(x.double() if x.is_floating_point() else x for x in model.example_inputs)
    for inputs, dtype in ((wide, torch.float64), (model.example_inputs, None)):
        module = copy.deepcopy(model.module).eval()
        yield replace(model, module=_awake(module.to(dtype) if dtype else module), example_inputs=inputs)
    yield replace(model, module=copy.deepcopy(model.module).double().eval(), example_inputs=wide)


@torch.no_grad()
def _awake(module: nn.Module) -> nn.Module:
    """Ordinary weights in place of those that a network starts from: a layer scale of 1e-6 hides its whole block."""
    drawn = torch.Generator().manual_seed(0)
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if not tensor.is_floating_point() or not tensor.dim():
            continue
        uniform = torch.rand(tensor.shape, generator=drawn, dtype=torch.float64).to(tensor)
        if tensor.dim() > 1 and isinstance(tensor, nn.Parameter):
            tensor.copy_((uniform - 0.5) * (12 / tensor[0].numel()) ** 0.5)  # variance 1 / fan-in
        elif isinstance(tensor, nn.Parameter) or name.endswith(("running_mean", "running_var")):
            shift = 0.5 if not name.endswith(("bias", "running_mean")) else -0.5
            tensor.copy_(uniform + shift)
    return module
