"""ToMe (Bolya et al., ICLR 2023, arXiv 2210.09461) on blocks that tokens go from, to compare `tokens` with.

Written from sections 3 and 4 of the paper: in every block r tokens go, by bipartite soft matching of the keys, a mean
over heads, every other token against the rest; means weighted by size, proportional attention.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn


def tome(network: nn.Module, settings: Any, r: int) -> nn.Module:
    """A copy of a network with TokenBlocks whose blocks but the last each merge r tokens, as far as there are.

    settings: of a whole schedule. The last one drops what is not read, as every network that is compared does.
    """
    from edgepress.passes.merging.settings import blocks_of, set_up

    made = set_up(network, settings)
    blocks = blocks_of(made, settings.encoder)
    for name, block in list(blocks.named_children())[:-1]:
        blocks._modules[name] = _Block(block, r)
    return made


def tome_at(model: Any, target: float) -> tuple[nn.Module, float, str]:
    """ToMe of a model by the least r whose share of its multiply-accumulates is at most `target`; that share, and r."""
    from edgepress.passes.merging.encoder import token_network
    from edgepress.passes.merging.schedule import Schedule
    from edgepress.passes.merging.settings import Settings

    encoder, network = token_network(model.module, model.example_inputs)
    whole = Schedule.whole(encoder.patches, len(list(network.get_submodule(encoder.place).children())))
    settings = Settings(encoder, whole, encoder.leading, encoder.leading)
    for r in range(1, encoder.patches):
        module = tome(network, settings, r)
        share = replace(model, module=module).facts().macs / model.facts().macs
        if share <= target:
            return module, share, f"r = {r}"
    raise ValueError(f"ToMe does not come to {target:g} of the multiply-accumulates")


class _Block(nn.Module):
    def __init__(self, block: Any, r: int) -> None:
        super().__init__()
        self.block, self.r = block, r

    def forward(self, tokens: Any) -> Any:
        block = self.block
        normed = tokens.with_features(block.norm1(tokens.features))
        _, keys, _ = block.attn.projected(normed)
        mixed, _ = block.attn(normed)
        tokens = merged(tokens.with_features(tokens.features + block.ls1(mixed)), keys.mean(1), self.r)
        return tokens.with_features(tokens.features + block.ls2(block.mlp(block.norm2(tokens.features))))


def merged(tokens: Any, metric: Tensor, r: int) -> Any:
    """The tokens with r patches fewer, or half of them; metric: (n, leading + patches, width)."""
    from edgepress.passes.merging.token_batch import TokenBatch, taken

    leading, sizes = tokens.leading, tokens.sizes
    patches = tokens.features[:, leading:]
    sizes = torch.ones_like(patches[..., 0]) if sizes is None else sizes
    metric = metric[:, leading:] / metric[:, leading:].norm(dim=-1, keepdim=True)
    a, b = metric[:, ::2], metric[:, 1::2]
    r = min(r, b.shape[1], a.shape[1])
    if r < 1:
        return tokens
    best, place = (a @ b.transpose(-1, -2)).max(-1)
    order = best.argsort(-1, descending=True)
    going, staying = order[:, :r], order[:, r:].sort(-1).values
    target = taken(place, going)
    one_hot = (target[..., None] == torch.arange(b.shape[1])).to(patches.dtype)  # (n, r, b)
    other, mass = patches[:, 1::2], sizes[:, 1::2]
    source, own = taken(patches[:, ::2], going), taken(sizes[:, ::2], going)
    together = mass + (one_hot * own[..., None]).sum(1)
    joined = other * mass[..., None] + (one_hot * own[..., None]).transpose(1, 2) @ source
    features = torch.cat([taken(patches[:, ::2], staying), joined / together[..., None]], 1)
    left = torch.cat([taken(sizes[:, ::2], staying), together], 1)
    return TokenBatch(torch.cat([tokens.features[:, :leading], features], 1), leading, left)
