"""Fidelity: how alike a network answers to the one that it was made from, whether or not either is right.

Accuracy alone hides it: answers may change from right to wrong and from wrong to right in equal number. Agreement and
the Kullback-Leibler divergence of predictions are those of Stanton et al. 2021, "Does Knowledge Distillation Really
Work?" (arXiv 2106.05945).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch.nn import functional as F

from .measurement import FidelityRecord

if TYPE_CHECKING:
    from torch import Tensor

    from ..model import Forward

TINY = 1e-12  # below the least step of any stored probability; keeps the logarithm of a 0 finite
SUMS_TO_ONE = 1e-3  # how far rows of probabilities may be from it, as float16 leaves them


def divergences(reference: Tensor, found: Tensor) -> Tensor:
    """KL(reference ‖ found) of each sample in nats; both (n, classes), logits or probabilities -> (n,)."""
    probabilities = are_probabilities(reference)
    target, log = (_log_probabilities(scores, probabilities) for scores in (reference, found))
    return F.kl_div(log, target.exp(), reduction="none").sum(1)


def are_probabilities(scores: Tensor) -> bool:
    """Whether scores (n, classes, ...) are of a network that ends in its own softmax: another one on top would flatten
    what differs."""
    return bool((scores >= 0).all()) and bool(((scores.double().sum(1) - 1).abs() <= SUMS_TO_ONE).all())


def _log_probabilities(scores: Tensor, probabilities: bool) -> Tensor:
    exact = scores.detach().double()
    return exact.clamp(min=TINY).log() if probabilities else F.log_softmax(exact, dim=1)


@dataclass
class Compared:
    """A network that is run beside the one that it was made from, and how alike their answers were so far.

    Called as the network itself is, with batches, whose outputs it returns. Only a first output of logits or
    probabilities (batch, classes) is compared: of others it is not known which element is an answer.
    """

    network: Forward
    reference: Forward
    samples: int = 0
    same: int = 0
    divergence: float = 0.0

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The network's outputs for a batch."""
        outputs = self.network(*inputs)
        found = outputs[0].detach()
        if found.dim() == 2 and found.shape[1] > 1 and found.is_floating_point():
            wanted = self.reference(*inputs)[0].detach()
            self.samples += len(found)
            self.same += int((wanted.argmax(1) == found.argmax(1)).sum())
            self.divergence += float(divergences(wanted, found).sum())
        return outputs

    def record(self, part: str) -> FidelityRecord | None:
        """What was found over all batches, which were of the part of this name; None where nothing was compared."""
        if not self.samples:
            return None
        mean = self.divergence / self.samples
        return FidelityRecord(
            agreement=self.same / self.samples,
            kl=max(mean, 0.0) if math.isfinite(mean) else math.nan,  # rounding may leave -1e-17
            n=self.samples,
            part=part,
        )
