"""Attention that cannot lose heads, or dimensions of them: it is left whole, and the reason is told."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from attention_nets import Encoder, FusedAttention, GroupedQueryAttention, TiedAttention
from edgepress.passes.channels.attention import find_attentions
from edgepress.passes.channels.kind import Kind
from torch import Tensor, nn

HEADS, HEAD_SIZE = (Kind.HEADS,), (Kind.HEAD_SIZE,)
Build = Callable[[], tuple[nn.Module, Tensor]]


def encoder(*attentions: nn.Module) -> tuple[nn.Module, Tensor]:
    return Encoder(*attentions), torch.randn(2, 7, 24)


def timm_net(name: str, size: int, **options: object) -> tuple[nn.Module, Tensor]:
    timm = pytest.importorskip("timm")
    sizes = {"img_size": size, "embed_dim": 48, "depth": 2, "num_heads": 3}
    return timm.create_model(name, pretrained=False, **sizes, **options), torch.randn(2, 3, size, size)


def eva() -> tuple[nn.Module, Tensor]:
    return timm_net("eva02_tiny_patch14_336", 28)


def normed() -> tuple[nn.Module, Tensor]:
    return timm_net("vit_tiny_patch16_224", 32, qk_norm=True)


def transformer_layer() -> tuple[nn.Module, Tensor]:
    return nn.Sequential(nn.TransformerEncoderLayer(24, 4, 48, batch_first=True)), torch.randn(2, 7, 24)


def smaller_keys() -> tuple[nn.Module, Tensor]:
    layer = pytest.importorskip("timm").models.efficientformer.Attention
    return nn.Sequential(layer(24, key_dim=4, num_heads=4, attn_ratio=2, resolution=4)), torch.randn(
        2, 16, 24
    )


def torchvision_windows() -> tuple[nn.Module, Tensor]:
    layer = pytest.importorskip("torchvision").models.swin_transformer.ShiftedWindowAttention
    return nn.Sequential(layer(24, [4, 4], [0, 0], 4)), torch.randn(1, 8, 8, 24)


LEFT_WHOLE: dict[str, tuple[Build, tuple[Kind, ...], str]] = {
    "nn.MultiheadAttention": (transformer_layer, HEADS, "nn.MultiheadAttention takes embed_dim / num_heads"),
    "sizes of the input": (lambda: encoder(TiedAttention()), HEADS, "forward() has sizes from elsewhere"),
    "EVA: heads as wide as the input": (eva, HEADS, "with fewer heads it does not run (RuntimeError: shape"),
    "heads that are mixed": (lambda: encoder(FusedAttention(talking=True)), HEADS, "not independent of one another"),
    "a size that is normed": (normed, HEAD_SIZE, "a norm or a rotary embedding mixes"),
    "a size that is rotated": (lambda: encoder(GroupedQueryAttention(rotary=True)), HEAD_SIZE, "a rotary embedding"),
    "keys smaller than values": (smaller_keys, HEAD_SIZE, "4 dimensions of keys and 8 of values"),
    "one head of keys": (lambda: encoder(GroupedQueryAttention(groups=1)), HEADS, "share one head of keys"),
    "layers that are not called": (torchvision_windows, HEADS, "not independent of one another"),
    "layers of other names": (lambda: encoder(FusedAttention(name="all_in_one")), HEADS, "usual names such as qkv"),
}  # fmt: skip


@pytest.mark.parametrize("case", LEFT_WHOLE)
def test_what_cannot_be_removed_is_left_whole_with_the_reason(case: str) -> None:
    build, kinds, words = LEFT_WHOLE[case]
    net, x = build()
    found, whole = find_attentions(net.eval(), (x,), frozenset(kinds))
    assert whole and not any(attention.removable for attention in found)
    for one in whole:
        assert words in one.reason
