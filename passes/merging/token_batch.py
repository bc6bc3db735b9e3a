"""The tokens of a batch: what goes from block to block of a transformer whose patch tokens become fewer."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class TokenBatch:
    """The tokens of a batch: leading ones (class token, registers), which stay and stand for one each, then patches.

    features: (n, leading + patches, width). leading: how many of them come first. sizes: how many patches of the image
    each patch token stands for, (n, patches), above 0; None for one each. positions: what rotary embeddings turn the
    patch tokens by, (n or 1, 1, patches, values); None in a network without. origin: which of them each patch of the
    image has become part of, (n, patches at first) int64; None where that is not asked for. lost: whether some patches
    were dropped, whose origin is -1.
    """

    features: Tensor
    leading: int
    sizes: Tensor | None = None
    positions: Tensor | None = None
    origin: Tensor | None = None
    lost: bool = False

    @property
    def patches(self) -> int:
        """How many patch tokens there are in each sample."""
        return int(self.features.shape[1]) - self.leading

    @property
    def log_sizes(self) -> Tensor | None:
        """Logarithms of the sizes of all tokens, (n, leading + patches); None where all of them are 0."""
        if self.sizes is None:
            return None
        return torch.nn.functional.pad(self.sizes.log(), (self.leading, 0))

    def followed(self) -> TokenBatch:
        """The same tokens; from here on it is known what each of their patches becomes part of."""
        every = torch.arange(self.patches, device=self.features.device).expand(self.features.shape[0], -1)
        return replace(self, origin=every)

    def restored(self) -> Tensor:
        """The features with as many patch tokens as at first, each that of what it became part of."""
        if self.origin is None:
            return self.features
        leading, patches = self.features[:, : self.leading], self.features[:, self.leading :]
        return torch.cat([leading, taken(patches, self.origin)], 1)

    def with_features(self, features: Tensor) -> TokenBatch:
        """The same tokens with other features, of the same shape."""
        return replace(self, features=features)


def taken(values: Tensor, places: Tensor) -> Tensor:
    """Rows of each sample: values (n, tokens, ...), places (n, kept) int64 -> (n, kept, ...).

    Indexed by sample and place at once, which exports to GatherND; `gather` would export to GatherElements with an
    index for each value, which OpenVINO takes many times as long for. (len() of a tensor would fix the batch of what is
    exported, where shape[0] does not.)
    """
    samples = torch.arange(places.shape[0], device=places.device)[:, None]
    return values[samples, places]
