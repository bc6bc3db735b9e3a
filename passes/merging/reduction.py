"""One site: between the attention and the MLP of a block some patch tokens are dropped, and some merged into others."""

from __future__ import annotations

import torch
from torch import Tensor

from .matching import MERGES, Similar, most_similar
from .schedule import Kept, MatchingName, MergeName
from .token_batch import TokenBatch, taken


def received(weights: Tensor, leading: int) -> Tensor:
    """How much attention each patch token receives, a mean over heads and over the tokens that look: (n, patches).

    weights: of the attention of these tokens alone, (n, heads, looking, tokens).
    """
    return weights.mean((1, 2))[:, leading:]


def reduced(
    tokens: TokenBatch, importance: Tensor | None, kept: Kept, merge: MergeName, matching: MatchingName
) -> TokenBatch:
    """The tokens that are left of `tokens`: the least important go, some of the others are merged into those that stay.

    importance: of each patch, (n, patches); None where `kept.by_importance` says that it does not matter. matching:
    `importance`: the least important of those that are left are merged, into any that stay (DiffRate, arXiv 2305.17997,
    section 3.2); `bipartite`: of every second token those that are most like one of the tokens between, into these
    (ToMe, arXiv 2210.09461, section 3, by features in place of keys). Then the tokens between come last.
    """
    if kept.merged == tokens.patches:
        return tokens
    order = None if importance is None else importance.topk(kept.pruned, dim=1).indices
    if matching == "importance":
        assert order is not None
        return _left(tokens, order[:, : kept.merged], order[:, kept.merged :], merge)
    if order is not None:
        # in the order they came in: at first every second token is one beside those between
        tokens = _left(tokens, order.sort(1).values, order[:, :0], merge)
    going = kept.pruned - kept.merged
    return _most_alike_joined(tokens, going, merge) if going else tokens


def _most_alike_joined(tokens: TokenBatch, going: int, merge: MergeName) -> TokenBatch:
    """So many of every second token, those most like one of the tokens between, merged into these."""
    patches = tokens.features[:, tokens.leading :]
    similarity, place = most_similar(patches[:, ::2], patches[:, 1::2])
    order = similarity.argsort(1, descending=True)
    most, others = order[:, :going], order[:, going:].sort(1).values
    between = torch.arange(1, tokens.patches, 2, device=order.device).expand(order.shape[0], -1)
    similar = taken(similarity, most), taken(place, most)
    return _left(tokens, torch.cat([2 * others, between], 1), 2 * most, merge, others.shape[1], similar)


def _left(
    tokens: TokenBatch,
    places: Tensor,
    going: Tensor,
    merge: MergeName,
    apart: int = 0,
    similar: Similar | None = None,
) -> TokenBatch:
    """The tokens at `places`, (n, staying), those at `going`, (n, going), merged into them; all others are lost.

    apart: how many of those that stay, the first, none is merged into. similar: of those that go among the rest.
    """
    patches, sizes, joined = tokens.features[:, tokens.leading :], tokens.sizes, going
    features = taken(patches, places)
    if going.shape[1]:
        every = torch.ones_like(patches[..., 0]) if sizes is None else sizes
        sizes = taken(every, places)
        met, mass, joined = MERGES[merge](
            features[:, apart:], sizes[:, apart:], taken(patches, going), taken(every, going), similar
        )
        if apart:
            met, mass = torch.cat([features[:, :apart], met], 1), torch.cat([sizes[:, :apart], mass], 1)
            joined = joined + apart
        features, sizes = met, mass
    elif sizes is not None:
        sizes = taken(sizes, places)
    origin, lost = tokens.origin, tokens.lost or places.shape[1] + going.shape[1] < tokens.patches
    if origin is not None:
        origin = taken(_renumbered(torch.cat([places, going], 1), joined, tokens.patches, lost), origin)
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
