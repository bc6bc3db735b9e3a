"""One site: between the attention and the MLP of a block some patch tokens are dropped, and some merged into others."""

from __future__ import annotations

import torch
from torch import Tensor

from .matching import Merge
from .schedule import Kept
from .token_batch import TokenBatch, taken


def received(weights: Tensor, leading: int) -> Tensor:
    """How much attention each patch token receives, a mean over heads and over the tokens that look: (n, patches).

    weights: of the attention of these tokens alone, (n, heads, looking, tokens).
    """
    return weights.mean((1, 2))[:, leading:]


def reduced(tokens: TokenBatch, importance: Tensor, kept: Kept, merge: Merge) -> TokenBatch:
    """The tokens that are left of `tokens`, those of most importance (n, patches) first.

    The most important `kept.merged` patches stay, the others among `kept.pruned` are merged into them, the rest goes.
    """
    if kept.merged == tokens.patches:
        return tokens
    patches = tokens.features[:, tokens.leading :]
    order = importance.topk(kept.pruned, dim=1).indices
    places, going = order[:, : kept.merged], order[:, kept.merged :]
    features, joined = taken(patches, places), going
    sizes = None if tokens.sizes is None else taken(tokens.sizes, places)
    if kept.pruned > kept.merged:
        every = torch.ones_like(importance) if tokens.sizes is None else tokens.sizes
        features, sizes, joined = merge(
            features, taken(every, places), taken(patches, going), taken(every, going)
        )
    origin, lost = tokens.origin, tokens.lost or kept.pruned < tokens.patches
    if origin is not None:
        origin = taken(_renumbered(order, joined, tokens.patches, lost), origin)
    positions = tokens.positions
    if positions is not None:
        positions = taken(positions[:, 0].expand(places.shape[0], -1, -1), places)[:, None]
    leading = tokens.features[:, : tokens.leading]
    return TokenBatch(torch.cat([leading, features], 1), tokens.leading, sizes, positions, origin, lost)


def _renumbered(order: Tensor, joined: Tensor, before: int, lost: bool) -> Tensor:
    """Where each token is afterwards, (n, before), by the order they were taken in and what the last of them joined.

    Where any were lost, here or earlier, (n, before + 1): -1 for those that are not in the order, and last, where an
    origin of -1 points. (By a scatter, which no network has that is exported: one that is told origins loses nothing.)
    """
    staying = torch.arange(order.shape[1] - joined.shape[1], device=order.device)
    by_rank = torch.cat([staying.expand(order.shape[0], -1), joined], 1)
    if not lost:
        return taken(by_rank, order.argsort(1))
    return torch.full((order.shape[0], before + 1), -1, device=order.device).scatter(1, order, by_rank)
