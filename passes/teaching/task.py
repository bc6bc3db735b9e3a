"""What a network is asked for, classes or values, read from its outputs and its labels on a few samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...calibration.data import Part
from ...calibration.fidelity import TINY, are_probabilities
from ...errors import CompressError

IGNORED = -100
"""The label that cross-entropy leaves out."""
SMALLEST_VARIANCE = 1e-8
TASK_SAMPLES = 64
"""On so many samples the task is read."""


@dataclass(frozen=True)
class Task:
    """classification: the first output holds logits (n, classes, ...), its labels whole numbers (n, ...).

    variances: of each of the network's outputs, in units of which squared errors are taken. probabilities: the places
    of outputs that the network's own softmax made.
    """

    classification: bool
    variances: tuple[float, ...]
    probabilities: frozenset[int] = frozenset()

    def as_logits(self, outputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The outputs, with the logarithms of probabilities, which are logits of the same softmax."""
        return tuple(
            _log(output) if place in self.probabilities else output for place, output in enumerate(outputs)
        )


def first_batch(part: Part, most: int, static_batch: int | None) -> tuple[tuple[Tensor, ...], Tensor]:
    """The first samples of a part, at most so many, as one batch, inputs and labels; a static batch is always whole."""
    return part.batch(range(static_batch or min(most, len(part))))


def read_task(outputs: Sequence[Tensor], labels: Tensor, used_by: str | None) -> Task:
    """The task, from the trained network's outputs for some samples and their labels.

    used_by: the pass that learns from labels, for the CompressError when they do not fit the first output; None where
    nobody looks at them.
    """
    first = outputs[0]
    classes = int(first.shape[1]) if first.dim() > 1 else 1
    whole = not labels.is_floating_point()
    classification = whole and classes > 1 and labels.shape == (first.shape[0], *first.shape[2:])
    if used_by is not None:
        _require_fit(first, labels, classification, used_by)
    variances = [float(y.detach().float().var()) if y.numel() > 1 else 1.0 for y in outputs]
    asked = classification or (whole and classes > 1)
    probabilities = (place for place, y in enumerate(outputs) if asked and _is_softmax(y))
    return Task(asked, tuple(max(v, SMALLEST_VARIANCE) for v in variances), frozenset(probabilities))


def _is_softmax(output: Tensor) -> bool:
    return (
        output.is_floating_point()
        and output.dim() > 1
        and output.shape[1] > 1
        and are_probabilities(output.detach())
    )


def _log(probabilities: Tensor) -> Tensor:
    exact = probabilities.to(torch.promote_types(probabilities.dtype, torch.float32))
    return exact.clamp(min=TINY).log()


def _require_fit(output: Tensor, labels: Tensor, classification: bool, what: str) -> None:
    told = f"the network gives {tuple(output.shape)} for labels of shape {tuple(labels.shape)}"
    alone = "set teacher_weight: 1 to learn from the teacher alone"
    if not classification and labels.numel() != output.numel():
        raise CompressError(
            f"{what}: {told}: they are neither a class of each sample or place, nor values like the output's; {alone}"
        )
    used = labels[labels != IGNORED]
    if classification and used.numel() and not 0 <= int(used.min()) <= int(used.max()) < output.shape[1]:
        raise CompressError(
            f"{what}: labels go from {int(used.min())} to {int(used.max())}, and the network has the classes 0 to"
            f" {output.shape[1] - 1} ({IGNORED} is left out); {alone}"
        )


def require_like(outputs: Sequence[Tensor], expected: Sequence[Tensor], who: str) -> None:
    """Raise CompressError when a student or a further teacher gives outputs of other shapes than the network."""
    shapes, wanted = ([tuple(y.shape) for y in given] for given in (outputs, expected))
    if shapes != wanted:
        raise CompressError(
            f"{who}: gives outputs of shapes {shapes} where the network gives {wanted}; they must be alike"
        )
