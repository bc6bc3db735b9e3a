"""Gradients of a network's own predictions, whose squares are the Fisher information of its weights.

That is the curvature of the KL divergence from the unchanged network, whose own gradient is zero.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, fx

from ...calibration.data import Part
from .task import Task


def drawn_gradients(
    network: fx.GraphModule,
    weights: Mapping[str, Tensor],
    part: Part,
    batch: int,
    draws: torch.Generator,
    task: Task,
) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """The samples of each batch of a part, and the gradients, by name, of the log-likelihood of what is drawn from the
    outputs, summed over them. Weights that none depends on are left out; so is a last batch that is short.

    weights: of the network by name, as tensors that gradients are taken of.
    """
    for inputs, _ in part.head(max(1, len(part) // batch) * batch).batches(batch):
        found = torch.func.functional_call(network, dict(weights), inputs)
        outputs = found if isinstance(found, (tuple, list)) else (found,)
        drawn = drawn_log_likelihoods(outputs, task, draws)
        if not drawn:
            yield len(inputs[0]), {}
            continue
        likelihood = torch.stack([likelihood for likelihood, _ in drawn]).sum()
        gradients = torch.autograd.grad(likelihood, list(weights.values()), allow_unused=True)
        yield len(inputs[0]), {n: g for n, g in zip(weights, gradients, strict=True) if g is not None}


def drawn_log_likelihoods(
    outputs: Sequence[Tensor], task: Task, draws: torch.Generator
) -> list[tuple[Tensor, int]]:
    """The log-likelihood of what is drawn from each output that gradients flow through, and of how many draws it is the
    sum: classes of outputs (n, classes, ...), or numbers with normal errors of the output's own variance."""
    return [
        _log_likelihood(output, draws, task.classification, variance)
        for output, variance in zip(task.as_logits(outputs), task.variances, strict=True)
        if output.requires_grad
    ]


def _log_likelihood(
    output: Tensor, draws: torch.Generator, classification: bool, variance: float
) -> tuple[Tensor, int]:
    if not classification or output.dim() < 2 or output.shape[1] < 2:
        errors = torch.randn(output.shape, generator=draws)
        return (output * errors).sum() / math.sqrt(variance), output.numel()
    logits = output.movedim(1, -1).reshape(-1, output.shape[1])
    drawn = torch.multinomial(logits.detach().softmax(1), 1, generator=draws)
    return logits.log_softmax(1).gather(1, drawn).sum(), len(drawn)
