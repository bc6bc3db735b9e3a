"""BatchNorm after a removal: its statistics are measured anew, for those it has are of the whole network's channels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def norms_of(network: nn.Module) -> list[_BatchNorm]:
    """The BatchNorms that normalize with statistics which they keep."""
    return [m for m in network.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]


def reestimate(network: nn.Module, batches: Iterable[tuple[Tensor, ...]]) -> None:
    """Measure mean and variance of what each BatchNorm is given, in place; nothing else changes, modes included.

    batches: of more than one sample, and of one size, as each counts as much as any other: the statistics are the mean
    over them (`momentum=None` of PyTorch). All norms are measured in one run, in which those before a norm normalize
    with the statistics of the batch, not with those that they will have: the same thing where all samples are one
    batch, but for n / (n - 1) of the variance. Dropout stays off.
    """
    norms = norms_of(network)
    if not norms:
        return
    with _measuring(norms), torch.no_grad():
        for batch in batches:
            network(*batch)


@contextmanager
def _measuring(norms: list[_BatchNorm]) -> Iterator[None]:
    """BatchNorms that take the mean of all batches' statistics, from none on."""
    modes = [(norm, norm.training, norm.momentum) for norm in norms]
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.train()
            norm.momentum = None
        yield
    finally:
        for norm, training, momentum in modes:
            norm.train(training)
            norm.momentum = momentum
