"""Which blocks of a network a shallower student keeps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...errors import CompressError
from ..channels.blocks import candidates_in, find_blocks
from .options import NAME_A_FACTORY

Inputs = tuple[Tensor, ...]


@dataclass
class _Run:
    """The blocks of one kind within one stage, of which `left` stay.

    floor: 1 where the first of them starts the stage, so that no stage vanishes.
    """

    container: str
    kind: type[nn.Module]
    keys: list[str]
    floor: int
    left: int

    def kept(self) -> set[str]:
        """The first, the last and evenly between: neighbours do the most alike, and can best stand in."""
        if self.left < 2:
            return set(self.keys[: self.left])
        step = (len(self.keys) - 1) / (self.left - 1)
        return {self.keys[int(index * step + 0.5)] for index in range(self.left)}


def choose_blocks(module: nn.Module, inputs: Inputs, depth: float) -> tuple[dict[str, list[str]], list[str]]:
    """The children that each container keeps, by its name, and notes.

    Of each kind (type) of block, round(depth * how many there are) stay where that is possible. They go one by one
    from the stage that has most left, the later of two that have as many. A stage is blocks of one shape, with the
    block before them that makes it; its first block stays. Raises CompressError when nothing can be dropped.
    """
    runs = _runs(module, inputs)
    if not runs:
        raise CompressError(
            "distill.student: depth: no block can be dropped: there is no sequence of like blocks (in nn.Sequential,"
            f" nn.ModuleList) whose outputs have the shape of their inputs. {NAME_A_FACTORY}"
        )
    totals = Counter(type(m) for m in module.modules())
    kinds = dict.fromkeys(run.kind for run in runs)
    floors = [note for kind in kinds if (note := _shorten(kind, totals[kind], runs, depth))]
    count = sum(totals[kind] for kind in kinds)
    dropped = sum(len(run.keys) - run.left for run in runs)
    if not dropped:
        why = "; ".join(floors) or f"{depth} of {count} blocks rounds to all of them"
        raise CompressError(
            f"distill.student: depth: no block can be dropped: {why}. Ask for a smaller depth, or for none."
            f" {NAME_A_FACTORY}"
        )
    notes = [f"blocks: {count - dropped} of {count} kept ({_listed(module, runs)})"]
    if floors:
        reason = "the rest change the shape, or are a stage's only one"
        notes.append(f"blocks that stay: {'; '.join(floors)}; {reason}")
    return _kept_children(module, runs), notes


def _shorten(kind: type[nn.Module], total: int, runs: Sequence[_Run], depth: float) -> str | None:
    """Take blocks of one kind from its longest runs until as many as asked for are left; a note if more stay."""
    mine = [run for run in runs if run.kind is kind]
    fixed = total - sum(len(run.keys) for run in mine)
    target = max(1, round(depth * total))
    while fixed + sum(run.left for run in mine) > target:
        open_runs = [run for run in reversed(mine) if run.left > run.floor]
        if not open_runs:
            stay = fixed + sum(run.left for run in mine)
            return f"{kind.__name__}: {stay} of {total} stay, {target} were asked for"
        max(open_runs, key=lambda run: run.left).left -= 1
    return None


def _kept_children(module: nn.Module, runs: Sequence[_Run]) -> dict[str, list[str]]:
    gone: dict[str, set[str]] = {}
    for run in runs:
        gone.setdefault(run.container, set()).update(set(run.keys) - run.kept())
    return {
        name: [key for key in module.get_submodule(name)._modules if key not in keys]
        for name, keys in gone.items()
        if keys
    }


def _listed(module: nn.Module, runs: Sequence[_Run]) -> str:
    """The kept blocks by container, those that could not go included."""
    kinds = {run.kind for run in runs}
    gone = {(run.container, key) for run in runs for key in set(run.keys) - run.kept()}
    kept: dict[str, list[str]] = {}
    for name, block in module.named_modules():
        container, _, key = name.rpartition(".")
        if type(block) in kinds and (container, key) not in gone:
            kept.setdefault(container or "network", []).append(key)
    return "; ".join(f"{container}: {', '.join(keys)}" for container, keys in kept.items())


def _runs(module: nn.Module, inputs: Inputs) -> list[_Run]:
    """Every run of blocks in the network, in its order."""
    candidates = dict(candidates_in(module))
    return [
        run
        for name, droppable in find_blocks(module, inputs, iterated=True).items()
        for run in _runs_of(name, candidates[name], droppable)
    ]


def _runs_of(container: str, blocks: dict[str, nn.Module], droppable: dict[str, torch.Size]) -> list[_Run]:
    stages: list[list[str]] = []
    shape: torch.Size | None = None
    for key in blocks:
        # What is no block, such as a strided convolution between two, may change the shape as well.
        changed = shape is not None and droppable.get(key) != shape
        if not stages or key not in droppable or changed:
            stages.append([])
        stages[-1].append(key)
        shape = droppable.get(key)
    runs = []
    for stage in stages:
        for kind in dict.fromkeys(type(blocks[key]) for key in stage):
            keys = [key for key in stage if type(blocks[key]) is kind]
            if any(key in droppable for key in keys):
                runs.append(_Run(container, kind, keys, floor=int(keys[0] == stage[0]), left=len(keys)))
    return runs
