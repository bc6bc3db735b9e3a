"""A teacher without the channels that a student lacks: what these compute together must be the same."""

from __future__ import annotations

import copy

import torch
from edgepress.model import Model
from edgepress.passes.channels.surgery import Cut
from edgepress.passes.distillation.student import Student
from torch import nn


def without_channels(model: Model, student: Student) -> nn.Module:
    """The network of `model` with zeros for all that `student` does not keep."""
    without = copy.deepcopy(model.module)
    tensors = dict([*without.named_parameters(), *without.named_buffers()])
    for name, dims in Cut.from_json(student.description["cut"]).tensors.items():
        for dim, kept in dims.items():
            gone = sorted(set(range(tensors[name].shape[dim])) - set(kept))
            tensors[name].data.index_fill_(dim, torch.tensor(gone), 0.0)
    return without


def kept(student: Student, tensor: str) -> dict[int, list[int]]:
    """The indices of each dimension that was cut of a tensor."""
    return Cut.from_json(student.description["cut"]).tensors.get(tensor, {})
