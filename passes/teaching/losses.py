"""The losses of distillation, one number a sample, shape (n,); means are taken where they are added up.

Outputs are (n, classes, ...): further axes, such as the pixels of a segmentation, are averaged. What was computed in
BF16 or FP16 is compared in float32.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def soft_target_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T² KL(softmax(teacher / T) ‖ softmax(student / T)) (Hinton et al. 2015, section 2; Polino et al. 2018, 2.3)."""
    target = F.log_softmax(_exact(teacher) / temperature, dim=1)
    found = F.log_softmax(_exact(student) / temperature, dim=1)
    divergence = F.kl_div(found, target, reduction="none", log_target=True).sum(1)
    return temperature**2 * _per_sample(divergence)


def regression_loss(student: Tensor, target: Tensor, variance: float) -> Tensor:
    """Squared error in units of the output's own variance, so that it weighs about as much as a KL does."""
    return _per_sample((_exact(student) - _exact(target)) ** 2) / variance


def label_loss(output: Tensor, labels: Tensor, classification: bool, variance: float) -> Tensor:
    """Cross-entropy for classes (n, ...), squared error for values of the output's shape."""
    if not classification:
        return regression_loss(output, _exact(labels).reshape(output.shape), variance)
    return _per_sample(F.cross_entropy(_exact(output), labels.long(), reduction="none"))


def feature_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """How far features of (n, channels, ...) or (n, tokens, channels) are from the teacher's, relative to theirs.

    Where the shapes agree, the squared error over the teacher's mean square (FitNets, Romero et al. 2015, without
    a regressor). Where only the channels differ, the same of the maps that are left when their squares are averaged
    over channels, each map at unit length (attention transfer, Zagoruyko and Komodakis 2017, equation 2).
    """
    student, teacher = _exact(student), _exact(teacher)
    if student.shape == teacher.shape:
        return _per_sample((student - teacher) ** 2) / _per_sample(teacher**2).clamp(min=1e-8)
    axis = _channel_axis(student, teacher)
    one, other = (F.normalize((x**2).mean(axis).flatten(1), dim=1) for x in (student, teacher))
    return ((one - other) ** 2).sum(1)


def same_map(student: Tensor, teacher: Tensor) -> bool:
    """Whether two features can be compared: equal shapes, or shapes that differ in the channels alone."""
    if student.dim() != teacher.dim() or student.dim() < 2:
        return False
    different = [d for d in range(1, student.dim()) if student.shape[d] != teacher.shape[d]]
    return not different or (student.dim() > 2 and different in ([1], [student.dim() - 1]))


def _channel_axis(student: Tensor, teacher: Tensor) -> int:
    return next(d for d in range(1, student.dim()) if student.shape[d] != teacher.shape[d])


def mixed_teachers(
    losses: Sequence[Tensor], weights: Sequence[float], dropping: float, uniform: Tensor
) -> Tensor:
    """The weighted mean of the losses (n,) to several teachers, some of them dropped, sample by sample.

    The teacher that the student is farthest from is always heard; each other one is dropped with the probability
    `dropping`, so that no teacher dominates which is easy to follow (UNIC, Sariyildiz et al. 2024, section 3.3).
    uniform: (n, teachers), in [0, 1). Weights are shared out among the teachers that are left.
    """
    each = torch.stack(list(losses), dim=1)
    farthest = F.one_hot(each.detach().argmax(1), each.shape[1]).bool()
    heard = (farthest | (uniform.to(each.device) >= dropping)).to(each.dtype)
    shares = heard * torch.tensor(list(weights), dtype=each.dtype, device=each.device)
    return (each * shares).sum(1) / shares.sum(1)


def _exact(values: Tensor) -> Tensor:
    """The tensor in float32 at least."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _per_sample(values: Tensor) -> Tensor:
    return values.flatten(1).mean(1) if values.dim() > 1 else values
