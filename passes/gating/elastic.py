"""Several networks nested in one: the smaller ones are made of the most important choices of the larger ones.

MatFormer (Devvrit et al., NeurIPS 2024, arXiv 2310.07707), trained by the sandwich rule (Yu and Huang, ICCV 2019,
arXiv 1903.05134): in each step the largest, the smallest and one between, which learn from the largest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..channels.anatomy import Anatomy
from ..channels.dissected import Dissected
from ..channels.gated import Gated
from ..channels.removal import removed
from ..channels.units import Kept, gates_of
from ..teaching.likeness import Found, Teacher
from ..teaching.taught import Taught
from ..training.draws import Draws
from ..training.job import Forward, Group, by_decay
from .cost import Cost
from .pieces import Pieces
from .projection import widened
from .solver import Solver


def nested(
    anatomy: Anatomy,
    importance: Mapping[str, Tensor],
    cost: Cost,
    pieces: Pieces,
    shares: Sequence[float],
    round_to: int = 8,
    least: float = 0.1,
    seconds: float = 60.0,
    note: Callable[[str], object] | None = None,
) -> tuple[Kept, ...]:
    """A structure for each share of the cost, the first of which is 1: the whole network, {}; each within the last.

    Each keeps the choices of most importance, so many as the solver finds do least harm; arguments as for `Solver`.
    shares: descending. seconds: for each. note: is told where they decided. Raises CompressError where one cannot be
    reached.
    """
    structures: list[Kept] = [{}]
    for share in shares[1:]:
        last = structures[-1]
        solver = Solver(anatomy, importance, cost, pieces, round_to, least, last)
        # What is inside a block that is gone is as it was, so that its choices are nested too.
        solved = solver.solve(share, seconds)
        if note and solved.note:
            note(f"{share:g}: {solved.note}")
        kept = {**last, **solved.kept}
        structures.append(widened(kept, importance, cost, share, anatomy.units, round_to, least, within=last))
    return tuple(structures)


class _Steps(nn.Module):
    """The gates of one unit, of which the first in rank are open: how many, goes by the size that is set."""

    def __init__(self, open_at: Tensor) -> None:
        super().__init__()
        self.register_buffer("open_at", open_at, persistent=False)  # it follows from the structures
        self.open_at: Tensor
        self.size = 0

    def forward(self) -> Tensor:
        """How open each choice is, (choices,)."""
        return self.open_at[self.size]


class _Statistics(nn.Module):
    """What BatchNorm layers know of their inputs, of one size; layers have but one such place."""

    def __init__(self, norms: Sequence[nn.Module]) -> None:
        super().__init__()
        self._places = [(norm, name) for norm in norms for name, _ in norm.named_buffers()]
        for place, (norm, name) in enumerate(self._places):
            self.register_buffer(f"{name}_{place}", norm.get_buffer(name).clone())

    def exchange(self) -> None:
        """Give the layers these for theirs; and back again."""
        for place, (norm, name) in enumerate(self._places):
            own = f"{name}_{place}"
            norm._buffers[name], self._buffers[own] = self._buffers[own], norm._buffers[name]


class Nested(nn.Module):
    """A network and smaller ones in it, which share its weights. By itself it runs as the largest.

    Each size has BatchNorm statistics of its own: those of fewer channels are others (Yu et al., ICLR 2019, arXiv
    1812.08928), and with them in the state any size can be judged and taken out without data.
    network: of which `dissected` is; not copied. structures: what is kept at each size, by `nested`.
    """

    def __init__(self, network: nn.Module, dissected: Dissected, structures: Sequence[Kept]) -> None:
        super().__init__()
        units = [u for u in dissected.anatomy.units if any(u.name in kept for kept in structures)]
        tables = [gates_of(kept, units) for kept in structures]
        gates = {unit.name: _Steps(torch.stack([table[unit.name] for table in tables])) for unit in units}
        self.gated = Gated(network, dissected, gates)
        self.structures, self._dissected, self._steps = tuple(structures), dissected, tuple(gates.values())
        norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
        self._statistics = tuple(_Statistics(norms) for _ in structures[1:])
        self.statistics = nn.ModuleList(self._statistics)

    def forward(self, *inputs: Tensor) -> Any:
        """The outputs of the network of the size that is set."""
        return self.gated(*inputs)

    @contextmanager
    def at(self, size: int) -> Iterator[None]:
        """Be the network of this size, a place in `structures`, while the block runs."""
        self._turn(0, size)
        try:
            yield
        finally:
            self._turn(size, 0)

    def _turn(self, before: int, after: int) -> None:
        for gate in self._steps:
            gate.size = after
        if (smaller := before + after) > 0:  # one of the two is the largest
            self._statistics[smaller - 1].exchange()

    def extracted(self, size: int) -> nn.Module:
        """A copy of the network of this size, physically smaller, in eval mode."""
        with self.at(size):
            return removed(self.gated.network, self._dissected.removal(self.structures[size]))


@dataclass
class Elastic(Taught):
    """The largest network is to be like the teachers, the smaller ones like the largest as it is now.

    network: around a `Nested`. A step trains the largest, the smallest, and one between that is drawn, if there is any.
    """

    @property
    def nested(self) -> Nested:
        """The networks."""
        found = self.network.network
        assert isinstance(found, Nested)
        return found

    def groups(self) -> list[Group]:
        """All weights; biases and norms, which do not decay."""
        return by_decay(self.network.parameters())

    def loss(
        self, forward: Forward, inputs: tuple[Tensor, ...], labels: Tensor, draws: Draws
    ) -> dict[str, Tensor]:
        """labels, teacher and features of the largest network; smallest and between, by what the largest says."""
        largest: Found = forward(*inputs)
        parts = self.likeness.loss(largest, self.likeness.answers(inputs), labels, draws)
        said: Found = tuple(y.detach() for y in largest[0]), tuple(y.detach() for y in largest[1])
        follower = replace(
            self.likeness, teachers=[Teacher(self.network)], teacher_weight=1.0, teacher_dropping=0.0
        )
        for name, size in self._smaller(draws).items():
            with self.nested.at(size):
                found: Found = forward(*inputs)
            parts[name] = torch.stack([*follower.loss(found, [said], labels, draws).values()]).sum()
        return parts

    def _smaller(self, draws: Draws) -> dict[str, int]:
        """The sizes that this step trains beside the largest."""
        last = len(self.nested.structures) - 1
        if last < 2:
            return {"smallest": last}
        between = torch.randint(1, last, (), generator=draws.shared("elastic/size"))
        return {"smallest": last, "between": int(between)}

    def outputs_at(self, size: int) -> Forward:
        """Runs the network of a size for what `outputs` gives of the largest."""

        def run(*inputs: Tensor) -> tuple[Tensor, ...]:
            with self.nested.at(size):
                return self.outputs(*inputs)

        return run
