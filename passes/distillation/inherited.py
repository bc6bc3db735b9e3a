"""Whether a student inherits what its teacher computes: compared with a teacher in which what was dropped is silent."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from ..channels.removal import Skipped
from ..channels.surgery import Cut

if TYPE_CHECKING:
    from ...model import Model

NEAR = 1e-6
"""Of the largest output, in binary64, where the order of sums is worth 1e-14."""


def inherits_blocks(student: nn.Module, teacher: Model, kept: Mapping[str, Sequence[str]]) -> bool:
    """Whether a student of fewer blocks computes what the teacher does that passes over the others.

    It does not where forward() goes by the numbers of its blocks, which are numbered anew.
    """
    skipping = copy.deepcopy(teacher.module).eval()
    for name, keys in kept.items():
        container = skipping.get_submodule(name)
        for key in container._modules.keys() - set(keys):
            container._modules[key] = Skipped()
    return _alike(skipping, copy.deepcopy(student), teacher)


def inherits_channels(student: nn.Module, wide: nn.Module, teacher: Model, cut: Cut) -> bool:
    """Whether a narrowed student computes what the network `wide` does without the channels that were cut.

    It does not where something between two layers puts channels in another order, such as a shuffle, or computes with
    all of them, such as a softmax. Norm layers do so too, in every network: both are compared without theirs.
    """
    silent = copy.deepcopy(wide)
    tensors = dict([*silent.named_parameters(remove_duplicate=False), *silent.named_buffers()])
    for name, dims in cut.tensors.items():
        tensor = tensors[name]
        for dim, kept in dims.items():
            gone = sorted(set(range(tensor.shape[dim])) - set(kept))
            tensor.data.index_fill_(dim, torch.tensor(gone, device=tensor.device), 0)
    return _alike(_without_norms(silent), _without_norms(copy.deepcopy(student)), teacher)


def _without_norms(module: nn.Module) -> nn.Module:
    for layer in list(module.modules()):
        for name, child in layer.named_children():
            if isinstance(child, nn.LayerNorm | nn.GroupNorm | nn.RMSNorm):
                setattr(layer, name, nn.Identity())
    return module


def _alike(one: nn.Module, other: nn.Module, teacher: Model) -> bool:
    """Whether two networks, which this changes, give the same on the example inputs, as far as that can be told."""
    inputs = [x.double() if x.is_floating_point() else x for x in teacher.example_inputs]
    try:
        with torch.no_grad():
            found = [module.double()(*inputs) for module in (one, other)]
    except Exception:  # of a forward() that makes float32 tensors of its own
        return True
    outputs = [x if isinstance(x, tuple) else (x,) for x in found]
    pairs = [(a, b) for a, b in zip(*outputs, strict=True) if a.is_floating_point()]
    if not all(bool(torch.isfinite(a).all() and torch.isfinite(b).all()) for a, b in pairs):
        return True
    return all(float((a - b).abs().max()) <= NEAR * float(a.abs().max()) for a, b in pairs)
