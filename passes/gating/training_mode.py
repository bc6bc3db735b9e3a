"""How a network is put in training mode: by itself it may then put out more, as those with auxiliary heads do."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import CompressError
from ..teaching.taps import Tapped
from .batch_norm import norms_of


def layers_train_alone(
    network: nn.Module, inputs: Sequence[Tensor], outputs: Sequence[Tensor], what: str
) -> bool:
    """Whether the layers alone are to train, and the modules around them to work as in evaluation, where the network
    gives `outputs` for `inputs`; in training it would put out something else.

    What a network adds in training, such as auxiliary heads, reads channels that are removed, and is not needed: it is
    taught by the whole network. what: the pass, for the CompressError where the outputs are others in any case.
    """
    wanted = _shapes(outputs)
    for alone in (False, True):
        tapped = Tapped(copy.deepcopy(network), [], alone).train()
        for norm in norms_of(tapped):
            norm.eval()  # of one sample there are no statistics
        with torch.no_grad(), torch.random.fork_rng():
            found, _ = tapped(*inputs)
        if _shapes(found) == wanted:
            return alone
    raise CompressError(
        f"{what}: in training the network gives outputs of shapes {_shapes(found)}, and {wanted} in evaluation; build"
        " it without what it adds to train (as aux_logits: false of its factory's arguments)"
    )


def _shapes(outputs: Sequence[Any]) -> list[Any]:
    return [tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__ for y in outputs]
