"""How tokens that go are added to tokens that stay: three rules, each a pure function of features and sizes.

All of them go by the cosines between the features of the tokens that go and of those that stay. One operator alone
reads these: where two read a product of activations in INT8, OpenVINO 2026.4 scales it twice if the batch varies.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from .schedule import MergeName

SHARPNESS = 10.0
"""What the soft rule multiplies cosines by before its softmax."""

Merged = tuple[Tensor, Tensor, Tensor]
"""Features (n, staying, width) and sizes (n, staying) of what stays; where each that goes went, (n, going) int64."""
Similar = tuple[Tensor, Tensor]
"""Of each token the cosine with the token most similar to it, and that one's place, (n, tokens) each."""


class Merge(Protocol):
    """One of the rules."""

    def __call__(
        self,
        staying: Tensor,
        sizes: Tensor,
        going: Tensor,
        going_sizes: Tensor,
        similar: Similar | None = None,
        /,
    ) -> Merged:
        """Features and sizes of tokens, (n, staying or going, width) and (n, staying or going) -> merged.

        similar: of those that go among those that stay, where that is known.
        """


def cosines(going: Tensor, staying: Tensor) -> Tensor:
    """(n, going, width), (n, staying, width) -> (n, going, staying); 0 where a token has no features at all."""
    return F.normalize(going, dim=-1) @ F.normalize(staying, dim=-1).transpose(-1, -2)


def most_similar(tokens: Tensor, others: Tensor) -> Similar:
    """Of each of the tokens, (n, tokens, width), among the others, (n, others, width)."""
    best = cosines(tokens, others).topk(1)
    return best.values[..., 0], best.indices[..., 0]


def mean(
    staying: Tensor, sizes: Tensor, going: Tensor, going_sizes: Tensor, similar: Similar | None = None, /
) -> Merged:
    """Each token that goes joins its most similar one; the features are the plain mean of all that met there.

    Sizes add up, those of tokens that go times their cosine (DiffRate, arXiv 2305.17997, section 3.3 and its code),
    which counts as 0 where it is negative: so no size falls.
    """
    similarity, place = most_similar(going, staying) if similar is None else similar
    to = _one_hot(place, staying).transpose(-1, -2)
    features = (staying + to @ going) / (1 + to.sum(-1, keepdim=True))
    return features, sizes + (to @ (going_sizes * similarity.clamp(min=0))[..., None])[..., 0], place


def weighted(
    staying: Tensor, sizes: Tensor, going: Tensor, going_sizes: Tensor, similar: Similar | None = None, /
) -> Merged:
    """Each token that goes joins its most similar one; features are means weighted by size, and sizes add up.

    (ToMe, arXiv 2210.09461, section 3.)
    """
    place = cosines(going, staying).argmax(-1) if similar is None else similar[1]
    return *_weighted_mean(_one_hot(place, staying), staying, sizes, going, going_sizes), place


def soft(
    staying: Tensor, sizes: Tensor, going: Tensor, going_sizes: Tensor, similar: Similar | None = None, /
) -> Merged:
    """Each token that goes is shared out over all that stay, by a softmax of its cosines; means weighted by size.

    A many-to-many assignment without training, as of Token Transforming (arXiv 2506.05709). The most similar ones do
    not tell all shares: cosines are computed anew, as one operator alone may read those that gave them.
    """
    shares = (SHARPNESS * cosines(going, staying)).softmax(-1)
    return *_weighted_mean(shares, staying, sizes, going, going_sizes), shares.argmax(-1)


def _one_hot(place: Tensor, staying: Tensor) -> Tensor:
    """(n, going) -> (n, going, staying), by comparing: it exports without a scatter."""
    places = torch.arange(staying.shape[1], device=staying.device)
    return (place[..., None] == places).to(staying.dtype)


def _weighted_mean(
    shares: Tensor, staying: Tensor, sizes: Tensor, going: Tensor, going_sizes: Tensor
) -> tuple[Tensor, Tensor]:
    masses = (shares * going_sizes[..., None]).transpose(-1, -2)  # (n, staying, going)
    together = sizes + masses.sum(-1)
    return (staying * sizes[..., None] + masses @ going) / together[..., None], together


MERGES: Mapping[MergeName, Merge] = {"mean": mean, "weighted": weighted, "soft": soft}
"""The rules by name."""
