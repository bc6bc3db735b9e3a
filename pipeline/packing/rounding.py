"""What packing may change when it is told how far weights may be from what they were."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from ...model import CodedTensor
from ...progress import Progress, Silent


@dataclass(frozen=True)
class Rounded:
    """Tensors by name after rounding. coded: those of floats that became codes; coarser: k of those of INT8."""

    tensors: dict[str, Tensor]
    coded: dict[str, CodedTensor]
    coarser: dict[str, int]


def rounded_tensors(tensors: Mapping[str, Tensor], error: float, progress: Progress = Silent()) -> Rounded:
    """Every weight tensor rounded at a squared error of `error` of its own energy; the others as they are."""
    from ...passes.lossy.rounded import coarser, rounded

    found = Rounded({}, {}, {})
    for name, tensor in progress.track(tensors.items(), "rounding weights", len(tensors)):
        coded = rounded(tensor, error)
        if coded is not None:
            found.coded[name] = coded
            found.tensors[name] = coded.tensor()
            continue
        found.tensors[name], k = coarser(tensor, error)
        if k > 1:
            found.coarser[name] = k
    return found
