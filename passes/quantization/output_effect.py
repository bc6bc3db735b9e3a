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

from ...calibration.sqnr import decibels
from ...errors import CompressError
from ...progress import Progress
from ..graph.observe import Batch, Watcher, judged_nodes, judged_values

ESTIMATES = 32
SMALLEST = 1e-60  # an output of zeros has a size, too
Key = TypeVar("Key")


class Change(Protocol):
    """A change to judge. nodes: the names of those whose tensors it looks at or changes."""

    @property
    def nodes(self) -> tuple[str, ...]: ...

    def difference(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What is added to the tensors that change, by node name, given those of `nodes`."""


@dataclass(frozen=True)
class Replaced:
    """One node's tensor is replaced by `by` of it, for instance a rounded one."""

    node: str
    by: Callable[[Tensor], Tensor]

    @property
    def nodes(self) -> tuple[str, ...]:
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
    what: str,
    estimates: int = ESTIMATES,
) -> dict[Key, float]:
    """SQNR in dB of the network's outputs under each change alone, to first order; 200 when nothing moves.

    Of several outputs, each is measured by its own size. Every r gives one estimate, which scatters by its own
    size: with 32 of them the mean scatters by 1 dB, less between changes of one tensor, which see the same r.
    Batches of one sample give most for the time; of fewer batches than `estimates`, each draws several r.
    Memory: one batch's activations, with their gradients.
    what: the pass, for the CompressError that is raised when an operator has no gradient.
    """
    every = list(batches)
    draws = max(1, math.ceil(estimates / max(1, len(every))))
    names = {name for change in changes.values() for name in change.nodes}
    noise = dict.fromkeys(changes, 0.0)
    with torch.inference_mode(False):  # which the caller may be in, and which gradients cannot be had in
        module = copy.deepcopy(module).requires_grad_(False)
        every = [tuple(x.clone() for x in batch) for batch in every]
        sizes = _output_sizes(module, every)
        for batch in progress.track(every, "effect of rounding on the outputs", len(every)):
            run = _Run(module, batch, names, sizes)
            gradients = [run.gradients(generator, what) for _ in range(draws)]
            with torch.no_grad():
                for key, change in changes.items():
                    difference = change.difference(run.values)
                    noise[key] += sum(_moved(difference, found) for found in gradients)
    return {key: decibels(draws * len(sizes), noise[key]) for key in changes}


def _output_sizes(module: fx.GraphModule, batches: Iterable[Batch]) -> list[float]:
    """The norm of each judged tensor over all batches."""
    names = judged_nodes(module)
    energies = [[float(y.double().square().sum()) for y in judged_values(module, b, names)] for b in batches]
    return [max(sum(column), SMALLEST) ** 0.5 for column in zip(*energies, strict=True)]


class _Run:
    """One batch through a network, with the tensors of some nodes kept, and their gradients to be had.

    sizes: what each judged tensor (`judged_nodes`) is divided by.
    """

    def __init__(self, module: fx.GraphModule, batch: Batch, names: set[str], sizes: Iterable[float]) -> None:
        self.kept: dict[str, Tensor] = {}
        judged = judged_nodes(module)
        outputs: dict[str, Tensor] = {}

        def keep(node: fx.Node, value: Any) -> Any:
            if node.name in names:
                if not value.requires_grad:
                    value = value.detach().requires_grad_()
                self.kept[node.name] = value
            if node.name in judged:
                outputs[node.name] = value
            return value

        with torch.enable_grad():
            Watcher(module, keep).run(*batch)
            self.outputs = [outputs[name] / size for name, size in zip(judged, sizes, strict=True)]
        self.values = {name: value.detach() for name, value in self.kept.items()}

    def gradients(self, generator: torch.Generator, what: str) -> dict[str, Tensor]:
        """The gradient of <r, outputs>, for a new r, in each kept tensor that the outputs depend on."""
        with torch.enable_grad():
            total = torch.stack([(y * _signs(y, generator)).sum() for y in self.outputs]).sum()
        if not total.requires_grad:
            return {}
        try:
            found = torch.autograd.grad(total, list(self.kept.values()), allow_unused=True, retain_graph=True)
        except RuntimeError as error:  # torch names the operator
            first_line = str(error).strip().splitlines()[0]
            raise CompressError(
                f"{what}: an operator of the network has no gradient, by which rounding is judged: {first_line};"
                " register one, or set ranges: mse, equalization: off and softmax_sqnr_db: 0"
            ) from error
        # Where a root is taken of 0 its slope is infinite: what a dead channel does there is not told.
        return {
            name: gradient.nan_to_num(0.0, 0.0, 0.0)
            for name, gradient in zip(self.kept, found, strict=True)
            if gradient is not None
        }


def _signs(y: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randint(0, 2, y.shape, generator=generator).to(y) * 2 - 1


def _moved(differences: Mapping[str, Tensor], gradients: Mapping[str, Tensor]) -> float:
    """<gradient, difference>^2; the differences of one change act together."""
    products = [
        float((gradients[name] * difference).sum(dtype=torch.float64))
        for name, difference in differences.items()
        if name in gradients
    ]
    return sum(products) ** 2
