"""Small transformers of several libraries, and of hand-written ones, whose tokens may go."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import timm
import torch
import torchvision
from edgepress.examples.digits.models import vit
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

SIDE = 32
_TIMM = partial(
    VisionTransformer,
    img_size=SIDE,
    patch_size=8,
    embed_dim=24,
    depth=3,
    num_heads=2,
    num_classes=5,
    mlp_ratio=2,
)


class Grey(nn.Module):
    """A network of one channel, given three."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.network(x[:, :1])
        return y


class Answer(nn.Module):
    """The tensor of a Hugging Face network's answer."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        found = self.network(x)
        y: Tensor = found.logits if hasattr(found, "logits") else found.pooler_output
        return y


def torchvision_vit() -> nn.Module:
    network = torchvision.models.VisionTransformer(SIDE, 8, 3, 2, 24, 48, num_classes=5)
    nn.init.normal_(network.heads[0].weight)  # zeros at first, which hide everything
    return network


def hugging_face(kind: str) -> nn.Module:
    import transformers

    sizes = {
        "hidden_size": 24,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": SIDE,
        "patch_size": 8,
    }
    if kind == "dinov2":
        return Answer(transformers.Dinov2Model(transformers.Dinov2Config(**sizes, mlp_ratio=2)))
    if kind == "clip":
        return Answer(
            transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**sizes, intermediate_size=48))
        )
    return Answer(
        transformers.ViTForImageClassification(transformers.ViTConfig(**sizes, intermediate_size=48))
    )


NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "timm ViT": _TIMM,
    "timm ViT, mean of the patches": partial(_TIMM, global_pool="avg"),
    "timm ViT, attention pooling": partial(_TIMM, global_pool="map", class_token=False),
    "timm DINOv2: registers, layer scale": partial(_TIMM, reg_tokens=3, init_values=0.5),
    "timm DeiT: distilled": partial(
        timm.create_model, "deit_tiny_distilled_patch16_224", img_size=SIDE, patch_size=8, depth=3, num_classes=5
    ),
    "timm EVA: rotary positions": partial(
        Eva, img_size=SIDE, patch_size=8, embed_dim=24, depth=3, num_heads=2, num_classes=5, use_rot_pos_emb=True,
        global_pool="token", swiglu_mlp=True,
    ),
    "torchvision ViT": torchvision_vit,
    "Hugging Face ViT": partial(hugging_face, "vit"),
    "Hugging Face DINOv2": partial(hugging_face, "dinov2"),
    "Hugging Face CLIP": partial(hugging_face, "clip"),
    "written by hand": lambda: Grey(vit()),
}  # fmt: skip
"""By what is special about them; inputs are (n, 3, 32, 32)."""


def built(name: str, **options: object) -> nn.Module:
    """A network of that name, the same weights each time; timm's take options (`depth`)."""
    torch.manual_seed(0)
    return NETWORKS[name](**options).eval()


def data() -> dict[str, tuple[Tensor, Tensor]]:
    """A recipe's parts, of noise and labels that mean nothing."""
    images = torch.randn(96, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    cut = {"calibration": slice(0, 32), "validation": slice(32, 64), "test": slice(64, 96)}
    return {name: (images[rows], torch.arange(32) % 5) for name, rows in cut.items()}
