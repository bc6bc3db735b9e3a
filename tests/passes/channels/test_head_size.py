"""Dimensions of heads beside all other channels of a network: gated, taken out, and multiplied as queries must be."""

from __future__ import annotations

import json
from functools import partial

import pytest
import timm
import torch
from attention_nets import Encoder, GroupedQueryAttention, siblings
from edgepress.model import Model
from edgepress.passes.channels.dissect import Rules, dissect
from edgepress.passes.channels.gated import Fixed, Gated
from edgepress.passes.channels.kind import Kind
from edgepress.passes.channels.removal import Removal, removed
from edgepress.passes.channels.soundness import random_kept
from edgepress.passes.channels.units import gates_of
from torch import nn

RULES = Rules(frozenset({Kind.CHANNELS, Kind.HEAD_SIZE}))
VIT = partial(timm.create_model, "vit_tiny_patch16_224", img_size=32, embed_dim=48, depth=2, num_heads=3)


def narrow(encoder: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(12, 24), encoder)


NETWORKS = {
    "timm ViT": (VIT, (2, 3, 32, 32)),
    "Hugging Face ViT": (lambda: narrow(siblings()), (2, 7, 12)),
    "Llama: shared keys": (lambda: narrow(Encoder(GroupedQueryAttention())), (2, 7, 12)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_left_is_the_gated_network(name: str) -> None:
    build, shape = NETWORKS[name]
    model = Model(build().double().eval(), (torch.randn(shape).double(),))
    dissected = dissect(model, "gates", RULES)
    units = dissected.anatomy.units
    assert not dissected.anatomy.whole
    assert {unit.kind for unit in units} == {Kind.CHANNELS, Kind.HEAD_SIZE}
    for seed in range(3):
        kept = random_kept(units, seed)
        gates = {unit: Fixed(gate.double()) for unit, gate in gates_of(kept, units).items()}
        removal = Removal.from_json(json.loads(json.dumps(dissected.removal(kept).to_json())))
        with torch.no_grad():
            closed = Gated(model.module, dissected, gates)(*model.example_inputs)
            left = removed(model.module, removal)(*model.example_inputs)
        assert float((closed - left).abs().max()) <= 1e-9 * float(left.abs().max())


def test_queries_alone_are_multiplied_where_one_layer_makes_all() -> None:
    model = Model(VIT().eval(), (torch.randn(1, 3, 32, 32),))
    unit = "blocks.0.attn"
    removal = dissect(model, "gates", RULES).removal({unit: (0, 1, 2, 5)})
    weight, bias = (removal.factors[f"{unit}.qkv.{leaf}"] for leaf in ("weight", "bias"))
    assert weight == bias == [(4 / 16) ** 0.5] * 12 + [1.0] * 24  # 3 heads of 16 become 3 of 4
