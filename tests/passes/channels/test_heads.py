"""Attention: without some heads, or some dimensions of each, it computes what the masked one does; else a reason."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable

import pytest
import torch
from attention_nets import Encoder, FusedAttention, GroupedQueryAttention, PairedAttention, siblings
from edgepress.model import Model
from edgepress.passes.channels.assembly import anatomy_of, sides_of
from edgepress.passes.channels.attention import find_attentions
from edgepress.passes.channels.dissected import removal_of
from edgepress.passes.channels.kind import Kind
from edgepress.passes.channels.removal import Removal, removed
from edgepress.passes.channels.ties import Ties
from edgepress.passes.channels.units import gates_of
from torch import Tensor, nn

BOTH = (Kind.HEADS, Kind.HEAD_SIZE)
HEADS, HEAD_SIZE = (Kind.HEADS,), (Kind.HEAD_SIZE,)


def tokens() -> Tensor:
    return torch.randn(2, 7, 24)


def image(size: int = 32) -> Tensor:
    return torch.randn(2, 3, size, size)


def timm_net(name: str, size: int = 32, fused: bool = True, **options: object) -> tuple[nn.Module, Tensor]:
    timm = pytest.importorskip("timm")
    net = timm.create_model(name, pretrained=False, num_classes=5, img_size=size, **options)
    for layer in net.modules():
        if hasattr(layer, "fused_attn"):
            layer.fused_attn = fused
    return net, image(size)


def windows() -> tuple[nn.Module, Tensor]:
    sizes = {"embed_dim": 24, "depths": (2, 1), "num_heads": (2, 4), "window_size": 4}
    return timm_net("swin_tiny_patch4_window7_224", **sizes)


def timm_rotary() -> tuple[nn.Module, Tensor]:
    layer = pytest.importorskip("timm").layers.AttentionRope
    options = {"num_heads": 6, "attn_head_dim": 4, "num_kv_heads": 3, "qkv_fused": False}
    return Encoder(layer(24, **options)), tokens()


def convolutional() -> tuple[nn.Module, Tensor]:
    """Pointwise convolutions on images make and read the heads."""
    layer = pytest.importorskip("timm").models.visformer.Attention
    return nn.Sequential(nn.Conv2d(3, 24, 8, 8), layer(24, num_heads=4), nn.Flatten()), image()


def with_a_cache() -> tuple[nn.Module, Tensor]:
    """EfficientFormer: keys are smaller than values; it keeps in a dict what it takes from a table of its own."""
    layer = pytest.importorskip("timm").models.efficientformer.Attention
    return nn.Sequential(layer(24, key_dim=4, num_heads=4, attn_ratio=2, resolution=4)), torch.randn(
        2, 16, 24
    )


def with_norms_after_linear() -> tuple[nn.Module, Tensor]:
    """LeViT: a BatchNorm after each layer."""
    layer = pytest.importorskip("timm").models.levit.Attention
    return nn.Sequential(layer(24, key_dim=4, num_heads=4, resolution=4)), torch.randn(2, 16, 24)


def encoder(*attentions: nn.Module) -> tuple[nn.Module, Tensor]:
    return Encoder(*attentions), tokens()


Build = Callable[[], tuple[nn.Module, Tensor]]
VIT = {"embed_dim": 48, "depth": 2, "num_heads": 3}
EXACT: dict[str, tuple[Build, tuple[Kind, ...]]] = {
    "timm ViT: fused": (lambda: timm_net("vit_tiny_patch16_224", **VIT), BOTH),
    "timm ViT: not fused": (lambda: timm_net("vit_tiny_patch16_224", fused=False, **VIT), BOTH),
    "DeiT": (lambda: timm_net("deit_tiny_distilled_patch16_224", **VIT), BOTH),
    "DINOv2: layer scale": (lambda: timm_net("vit_small_patch14_reg4_dinov2", 28, **VIT), BOTH),
    "rotary ViT": (lambda: timm_net("vit_small_patch16_rope_224", **VIT), HEADS),
    "timm: three layers, shared keys": (timm_rotary, BOTH),
    "Hugging Face ViT: the projection in a sibling": (lambda: (siblings(), tokens()), BOTH),
    "Llama: shared keys": (lambda: encoder(GroupedQueryAttention()), BOTH),
    "Llama: rotary": (lambda: encoder(GroupedQueryAttention(rotary=True)), HEADS),
    "queries, and keys with values": (lambda: encoder(PairedAttention()), BOTH),
    "one layer, of a scale that follows its size": (lambda: encoder(FusedAttention()), BOTH),
    "rows in the order (heads, 3, size)": (lambda: encoder(FusedAttention(order="hpd")), BOTH),
    "rows in the order (3, size, heads)": (lambda: encoder(FusedAttention(order="pdh")), BOTH),
    "Swin: tables of positions": (windows, BOTH),
    "pointwise convolutions": (convolutional, BOTH),
    "EfficientFormer: a cache": (with_a_cache, HEADS),
    "LeViT: norms": (with_norms_after_linear, HEADS),
}  # fmt: skip
CASES = [(name, kind) for name, (_, kinds) in EXACT.items() for kind in kinds]


def built(case: str) -> tuple[nn.Module, Tensor]:
    net, x = EXACT[case][0]()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(
                0.1 * torch.randn_like(parameter)
            )  # tables and biases that begin as zeros would decide nothing
    return net.double().eval(), x.double()


def found_in(net: nn.Module, x: Tensor, *kinds: Kind) -> list[Ties]:
    found, whole = find_attentions(net, (x,), frozenset(kinds))
    assert not whole
    return [attention.removable for attention in found]


def random_kept(found: list[Ties]) -> dict[str, tuple[int, ...]]:
    kept = {}
    for ties in found:
        count = int(torch.randint(1, ties.unit.size, ()))
        kept[ties.unit.name] = tuple(sorted(torch.randperm(ties.unit.size)[:count].tolist()))
    return kept


def masked_output(net: nn.Module, x: Tensor, kept: dict[str, tuple[int, ...]], found: list[Ties]) -> Tensor:
    """What the network computes whose heads are closed where the ties say that gates stand."""
    sides, gates = sides_of(net, found), gates_of(kept, [ties.unit for ties in found])
    hooks = []

    def times(layer: nn.Module, channels: Tensor, mask: Tensor) -> Tensor:
        return channels * (mask[:, None, None] if isinstance(layer, nn.Conv2d) else mask)

    for name, side in sides.reads.items():
        mask = side.mask(gates).double()
        hooks.append(
            net.get_submodule(name).register_forward_pre_hook(lambda m, y, mask=mask: times(m, y[0], mask))
        )
    for name, side in sides.makes.items():
        mask = side.mask(gates).double()
        hooks.append(
            net.get_submodule(name).register_forward_hook(lambda m, _, y, mask=mask: times(m, y, mask))
        )
    with torch.no_grad():
        output = net(x)
    for hook in hooks:
        hook.remove()
    return output


def without(net: nn.Module, kept: dict[str, tuple[int, ...]], found: list[Ties]) -> nn.Module:
    removal = removal_of(sides_of(net, found), kept)
    return removed(net, Removal.from_json(json.loads(json.dumps(removal.to_json()))))


@pytest.mark.parametrize(("case", "kind"), CASES)
def test_the_cut_network_computes_what_the_masked_one_does(case: str, kind: Kind) -> None:
    net, x = built(case)
    found = found_in(net, x, kind)
    assert found and all(ties.unit.kind is kind for ties in found)
    for _ in range(3):
        kept = random_kept(found)
        expected, smaller = masked_output(net, x, kept, found), without(net, kept, found)
        with torch.no_grad():
            got = smaller(x)
        # The same products in another order: 1e-15 for each of the few thousand that a sum has.
        assert float((got - expected).abs().max()) <= 1e-9 * float(expected.abs().max())
        assert sum(p.numel() for p in smaller.parameters()) < sum(p.numel() for p in net.parameters())
    with torch.no_grad():
        assert not torch.allclose(net(x), expected)  # the mask does close something


@pytest.mark.parametrize(("case", "kind"), CASES)
def test_parameters_and_products_shrink_as_is_told(case: str, kind: Kind) -> None:
    net, x = built(case)
    found = found_in(net, x, kind)
    kept = random_kept(found)
    anatomy = anatomy_of(Model(net, (x,)), found, sides_of(net, found), ())
    facts = Model(without(net, kept, found), (x,)).facts()
    gates = gates_of(kept, anatomy.units)
    assert float(sum(term.of(gates) for term in anatomy.params.values())) == facts.params
    macs = float(sum(term.of(gates) for layer in anatomy.layers for term in layer.macs))
    assert macs == pytest.approx(facts.macs, rel=1e-6)  # sums of float32
    attentions = [layer for layer in anatomy.layers if layer.type == "attention"]
    assert [layer.name for layer in attentions] == [ties.unit.name for ties in found]


def test_heads_come_before_head_size() -> None:
    net, x = built("timm ViT: fused")
    units = [ties.unit for ties in found_in(net, x, *BOTH)]
    assert [(unit.name, unit.kind, unit.size) for unit in units] == [
        ("blocks.0.attn", Kind.HEADS, 3),
        ("blocks.1.attn", Kind.HEADS, 3),
    ]


def test_head_size_is_offered_where_there_is_one_head() -> None:
    net, x = encoder(FusedAttention(heads=1), FusedAttention(heads=4))
    units = [ties.unit for ties in found_in(net.eval(), x, *BOTH)]
    assert [(unit.kind, unit.size) for unit in units] == [(Kind.HEAD_SIZE, 24), (Kind.HEADS, 4)]


def test_a_choice_is_one_head_of_keys_with_all_its_queries() -> None:
    net, x = built("Llama: shared keys")
    found = found_in(net, x, Kind.HEADS)
    tensors = removal_of(sides_of(net, found), {found[0].unit.name: (1,)}).cut.tensors
    assert found[0].unit.size == 3
    assert tensors["layer.0.attention.q_proj.weight"][0] == list(range(8, 16))
    assert tensors["layer.0.attention.k_proj.weight"][0] == list(range(4, 8))
    assert tensors["layer.0.attention.o_proj.weight"][1] == list(range(8, 16))


def test_attributes_say_what_is_left() -> None:
    net, x = built("Hugging Face ViT: the projection in a sibling")
    found = found_in(net, x, Kind.HEADS)
    attention = without(net, {ties.unit.name: (0, 2, 3) for ties in found}, found).layer[1].attention
    assert (attention.attention.num_attention_heads, attention.attention.all_head_size) == (3, 18)
    assert (attention.attention.query.out_features, attention.output.dense.in_features) == (18, 18)
    assert attention.attention.attention_head_size == 6


def test_what_weights_are_does_not_decide() -> None:
    net, x = built("timm ViT: fused")
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
    assert all(found_in(net, torch.zeros_like(x), Kind.HEADS))


@pytest.mark.parametrize("case", ["timm ViT: fused", "EfficientFormer: a cache"])
def test_the_network_is_left_as_it_was(case: str) -> None:
    net, x = built(case)
    before, output = copy.deepcopy(net.state_dict()), net(x)
    find_attentions(net, (x,), frozenset(BOTH))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert torch.equal(net(x), output)
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in net.modules())
