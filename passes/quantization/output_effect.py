"""What a small change inside a network does to its outputs, for hundreds of changes from one backward pass.

To first order a change d of an inner tensor x moves the outputs by J d, with J their Jacobian in x. For a random
r with entries of -1 and 1, the expectation of <J^T r, d>^2 is |J d|^2 (Hutchinson 1990), and J^T r is what one
backward pass gives for all inner tensors at once. PTQ4ViT (Yuan et al. 2022, arXiv 2111.12293, section 3.2) judges
rounding by gradients likewise. Unlike the squared error of the tensor itself this sees that one token with huge
activations, or a mean shift of a thousand small ones, is what the outputs hang on.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, fx

from ...progress import Progress
from .observe import Batch, Watcher

UNMOVED_DB = 200.0  # as `sensitivity.sqnr_db` says of equal outputs
Key = TypeVar("Key")


class Change(Protocol):
    """A change to judge. reads, moves: names of the nodes it looks at, and of those whose tensors it changes."""

    @property
    def reads(self) -> tuple[str, ...]: ...

    @property
    def moves(self) -> tuple[str, ...]: ...

    def difference(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What is added to the tensor of each node in `moves`, given the values of those in `reads`."""


@dataclass(frozen=True)
class Replaced:
    """One node's tensor is replaced by `by` of it, for instance a rounded one."""

    node: str
    by: Callable[[Tensor], Tensor]

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.node,)

    @property
    def moves(self) -> tuple[str, ...]:
        return (self.node,)

    def difference(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`by` of the tensor, less the tensor."""
        return {self.node: self.by(values[self.node]) - values[self.node]}


def output_sqnr_db(
    module: fx.GraphModule,
    batches: Iterable[Batch],
    changes: Mapping[Key, Change],
    generator: torch.Generator,
    progress: Progress,
) -> dict[Key, float]:
    """SQNR in dB of the network's first output under each change alone, to first order; 200 when nothing moves.

    Every batch draws one r and gives one estimate: batches of one sample give the most.
    Memory: one batch's activations, with their gradients.
    """
    module = copy.deepcopy(module).requires_grad_(False)
    nodes = {name for change in changes.values() for name in (*change.reads, *change.moves)}
    noise = dict.fromkeys(changes, 0.0)
    signal = 0.0
    for batch in progress.track(batches, "effect of rounding on the outputs"):
        output, values, gradients = _gradients(module, batch, nodes, generator)
        signal += float(output.double().pow(2).sum())
        with torch.no_grad():
            for key, change in changes.items():
                noise[key] += _moved(change.difference(values), gradients)
    return {key: _decibels(signal, noise[key]) for key in changes}


def _gradients(
    module: fx.GraphModule, batch: Batch, nodes: set[str], generator: torch.Generator
) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """The first output, and for each node its tensor and the gradient of <r, output> in it, where there is one."""
    kept: dict[str, Tensor] = {}

    def keep(node: fx.Node, value: Any) -> Any:
        if node.name not in nodes:
            return value
        if not value.requires_grad:
            value = value.detach().requires_grad_()
        kept[node.name] = value
        return value

    with torch.enable_grad():
        outputs = Watcher(module, keep).run(*batch)
        output = outputs[0] if isinstance(outputs, tuple) else outputs
        signs = torch.randint(0, 2, output.shape, generator=generator).to(output) * 2 - 1
        if not output.requires_grad:
            return output, kept, {}
        found = torch.autograd.grad((output * signs).sum(), list(kept.values()), allow_unused=True)
    gradients = {name: g for name, g in zip(kept, found, strict=True) if g is not None}
    return output.detach(), {name: value.detach() for name, value in kept.items()}, gradients


def _moved(differences: Mapping[str, Tensor], gradients: Mapping[str, Tensor]) -> float:
    """<gradient, difference>^2; the differences of one change act together."""
    products = [
        (gradients[name] * difference).sum(dtype=torch.float64)
        for name, difference in differences.items()
        if name in gradients
    ]
    return float(sum(products)) ** 2


def _decibels(signal: float, noise: float) -> float:
    return UNMOVED_DB if noise == 0.0 else 10 * math.log10(max(signal, 1e-300) / noise)
