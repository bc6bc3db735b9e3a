"""Blocks in which tokens that go stay, masked: they compute what `TokenBlocks` do, with gradients in how many go.

After DiffRate (Chen et al., ICCV 2023, arXiv 2305.17997, section 3.3): a token whose rank in importance is not below
the count gets the mask 0, and the mask has the gradient of the probability that so many are kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .blocks import TokenBlock, TokenBlocks
from .distributions import around, candidates, mean, straight_through, survival
from .matching import SHARPNESS, cosines
from .reduction import received
from .schedule import MergeName, Schedule
from .token_batch import TokenBatch

LEAST = 1e-30
"""Smallest sum of exponentials."""
HIGHEST = 30.0
"""Of a score above that of all tokens that are there: more counts as this, whose exponential is finite."""
SLACK = 1e-4
"""Of a token, that an expected count may be above a whole number and count as that."""


@dataclass(frozen=True)
class Masked:
    """Patch tokens of which some have gone. alive: 1 or 0 of each, (n, patches); sizes: as of `TokenBatch`.

    origin: the token that each has become part of, itself while it is alive, (n, patches) int64.
    """

    tokens: TokenBatch
    alive: Tensor
    sizes: Tensor
    origin: Tensor

    @property
    def patches(self) -> Tensor:
        """Their features, (n, patches, width)."""
        return self.tokens.features[:, self.tokens.leading :]

    def restored(self) -> Tensor:
        """All features, each that of the token which it has become part of."""
        alive, leading = self.alive[..., None], self.tokens.features[:, : self.tokens.leading]
        index = self.origin[..., None].expand_as(self.patches)
        return torch.cat([leading, alive * self.patches + (1 - alive) * self.patches.gather(1, index)], 1)


class MaskedBlocks(TokenBlocks):
    """The blocks of an encoder whose counts learn, in the place of TokenBlocks and of the same parts.

    logits: (sites, 2, candidates) float64 of the distributions for pruning and for merging at each of `sites`. pull:
    the same of the cost's gradient in them: theirs is that part of the loss's gradient which leaves the cost as it is.
    """

    def __init__(self, blocks: TokenBlocks, start: Schedule, sites: range) -> None:
        super().__init__(blocks.named_children(), blocks.leading)  # type: ignore[arg-type]  # they are TokenBlocks
        self.restores, self.sites, self.start = blocks.restores, sites, start
        choices = candidates(start.patches)
        self.register_buffer("choices", choices)
        pairs = [(start.blocks[block].pruned, start.blocks[block].merged) for block in sites]
        self.logits = nn.Parameter(
            torch.stack([torch.stack([around(count, choices) for count in pair]) for pair in pairs])
        )
        self.register_buffer("pull", torch.zeros_like(self.logits))

    @property
    def prunes(self) -> bool:
        """Whether tokens may be dropped."""
        return not self.restores

    def means(self) -> Tensor:
        """Expected counts, (sites, 2)."""
        return mean(self.logits, self.get_buffer("choices"))

    def schedule(self) -> Schedule:
        """With the expected counts, rounded up."""
        counts = dict(zip(self.sites, (self.means().detach() - SLACK).ceil().int().tolist(), strict=True))
        whole = [self.start.patches] * 2
        pruned, merged = zip(*(counts.get(index, whole) for index in range(len(self.each))), strict=True)
        if not self.prunes:
            pruned = (self.start.patches, *merged[:-1])
        return self.start.with_counts(pruned, merged)

    def _within_the_budget(self, gradient: Tensor) -> Tensor:
        pull = self.get_buffer("pull")
        return gradient - (gradient * pull).sum() / pull.square().sum().clamp(min=LEAST) * pull

    def forward(  # type: ignore[override]
        self, features: Tensor, *masks: Tensor | None, rope: Tensor | None = None, **options: object
    ) -> Tensor:
        """As of TokenBlocks; all tokens come back, and what is of no use behind the last block is not dropped."""
        if rope is not None and rope.dim() == 2:
            rope = rope[None, None]
        patches = features.shape[1] - self.leading
        kept = self.schedule()
        logits = self.logits.clone()
        if logits.requires_grad:
            logits.register_hook(self._within_the_budget)  # type: ignore[no-untyped-call]
        chances = survival(logits, self.get_buffer("choices"), patches).to(features.dtype)
        ones = torch.ones_like(features[:, self.leading :, 0])
        every = torch.arange(patches, device=features.device).expand(features.shape[0], -1)
        now = Masked(TokenBatch(features, self.leading, positions=rope), ones, ones, every)
        for index, block in enumerate(self.each):
            place = index - self.sites.start
            if index not in self.sites:
                now = _through(block, now, lambda state, _: state)
                continue
            counts = (kept.blocks[index].pruned, kept.blocks[index].merged)
            now = _through(block, now, _Site(chances[place], counts, self.prunes, self.start.merge))
        return now.restored() if self.restores else now.tokens.features


def _through(block: TokenBlock, now: Masked, site: Callable[[Masked, Tensor], Masked]) -> Masked:
    """A block: attention to what is alive, what goes at its site, the MLP."""
    tokens = now.tokens
    mixed, importance = _attended(block, now)
    now = site(_with(now, tokens.features + block.ls1(mixed)), importance)
    features = now.tokens.features
    return _with(now, features + block.ls2(block.mlp(block.norm2(features))))


def _with(now: Masked, features: Tensor) -> Masked:
    return Masked(now.tokens.with_features(features), now.alive, now.sizes, now.origin)


def _attended(block: TokenBlock, now: Masked) -> tuple[Tensor, Tensor]:
    """Attention in which each token weighs as much as its size and its mask say; and what patches receive of it."""
    attn, tokens = block.attn, now.tokens
    normed = tokens.with_features(block.norm1(tokens.features))
    queries, keys, values = attn.projected(normed)
    scores = queries @ keys.transpose(-1, -2) * attn.scale
    weight = nn.functional.pad(now.alive * now.sizes, (tokens.leading, 0), value=1.0)[:, None, None, :]
    top = scores.detach().masked_fill(weight.detach() == 0, -torch.inf).amax(-1, keepdim=True)
    raised = (scores - top).clamp(max=HIGHEST).exp() * weight
    weights = raised / raised.sum(-1, keepdim=True).clamp(min=LEAST)
    mixed = attn.proj(attn.norm((weights @ values).transpose(1, 2).flatten(2)))
    if block.looks:
        looking = weights[:, :, : block.looks].detach()
    else:
        there = nn.functional.pad(now.alive.detach(), (tokens.leading, 0), value=1.0)
        looking = weights.detach() * (there / there.mean(-1, keepdim=True))[:, None, :, None]
    return mixed, received(looking, tokens.leading)


@dataclass(frozen=True)
class _Site:
    """chances: of the ranks to be kept, (2, patches), by pruning and by merging; counts: how many are."""

    chances: Tensor
    counts: tuple[int, int]
    prunes: bool
    merge: MergeName

    def __call__(self, now: Masked, importance: Tensor) -> Masked:
        ranked = importance.masked_fill(now.alive.detach() == 0, -1.0)
        rank = ranked.argsort(1, descending=True).argsort(1)
        pruning, merging = (
            straight_through((rank < count).to(importance), chance[rank])
            for count, chance in zip(self.counts, self.chances, strict=True)
        )
        left = now.alive * pruning if self.prunes else now.alive
        staying = left * merging
        going = left - staying
        patches = now.patches
        similar = cosines(patches, patches).masked_fill(staying.detach()[:, None] == 0, -2.0)
        shares, similarity, place = _shares(similar, self.merge)
        own = torch.ones_like(now.sizes) if self.merge == "mean" else now.sizes
        masses = (shares * (going * own)[..., None]).transpose(-1, -2)
        together = own + masses.sum(-1)
        merged = (patches * own[..., None] + masses @ patches) / together[..., None]
        kept = similarity.clamp(min=0) if self.merge == "mean" else torch.ones_like(similarity)
        added = (shares * (going * now.sizes * kept)[..., None]).sum(1)
        gone = going.detach() > 0
        joined = torch.where(gone, place, torch.arange(place.shape[1], device=place.device))
        leading = now.tokens.features[:, : now.tokens.leading]
        tokens = now.tokens.with_features(torch.cat([leading, merged], 1))
        return Masked(tokens, staying, now.sizes + added, joined.gather(1, now.origin))


def _shares(similar: Tensor, merge: MergeName) -> tuple[Tensor, Tensor, Tensor]:
    """What each token would give to each that stays, (n, patches, patches), with the most similar one of these."""
    similarity, place = similar.max(-1)
    if merge == "soft":
        return (SHARPNESS * similar).masked_fill(similar < -1.5, -torch.inf).softmax(-1), similarity, place
    places = torch.arange(similar.shape[-1], device=similar.device)
    return (place[..., None] == places).to(similar.dtype), similarity, place
