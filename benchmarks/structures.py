"""The architectures of the structure coverage, and how a network without weights is made fit for it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

ARCHITECTURES: dict[str, str] = {
    "ResNet-18": "torchvision:resnet18",
    "ResNeXt-26": "timm:resnext26ts",
    "MobileNetV2": "torchvision:mobilenet_v2",
    "MobileNetV3-S": "torchvision:mobilenet_v3_small",
    "EfficientNet-B0": "torchvision:efficientnet_b0",
    "ConvNeXt-Atto": "timm:convnext_atto",
    "RegNetY-400MF": "torchvision:regnet_y_400mf",
    "ShuffleNetV2": "torchvision:shufflenet_v2_x1_0",
    "SqueezeNet 1.1": "torchvision:squeezenet1_1",
    "GhostNet": "timm:ghostnet_100",
    "MnasNet": "torchvision:mnasnet0_5",
    "GoogLeNet": "torchvision:googlenet",
    "DenseNet-121": "torchvision:densenet121",
    "RepVGG-A0": "timm:repvgg_a0",
    "ViT-Tiny": "timm:vit_tiny_patch16_224",
    "DeiT-Tiny": "timm:deit_tiny_patch16_224",
    "ViT (torchvision)": "torchvision:vit_b_32",
    "Swin-Tiny": "torchvision:swin_t",
    "MobileViT-XXS": "timm:mobilevit_xxs",
    "EfficientFormer-L1": "timm:efficientformer_l1",
    "MLP-Mixer-S": "timm:mixer_s32_224",
}
"""Name in the table -> `model.source` of a recipe."""

ARGUMENTS: dict[str, dict[str, object]] = {
    "GoogLeNet": {"aux_logits": False, "init_weights": False},
}
HIDDEN = 1e-3  # a factor that starts below this hides the block behind it until it is trained


def images(count: int, shape: tuple[int, ...], seed: int) -> Tensor:
    """Random images (count, *shape) with the spectrum of photographs: noise at four sizes, unit variance."""
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(count, *shape)
    for divisor in (1, 4, 16, 64):
        size = [max(1, side // divisor) for side in shape[1:]]
        noise = torch.randn(count, shape[0], *size, generator=generator)
        total += nn.functional.interpolate(noise, size=shape[1:], mode="bilinear", antialias=True)
    return total / total.std()


@torch.no_grad()
def wake(module: nn.Module, batch: Tensor, seed: int) -> None:
    """Give a network without weights the statistics of a trained one, in place.

    What starts at zero or next to it (layer scale, the last normalization of a residual branch, a head) would
    hide everything before it: such parameters get ordinary values. BatchNorm learns from `batch`.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        if parameter.abs().max() < HIDDEN and not name.endswith("bias"):
            matrix = parameter.ndim > 1 and parameter.shape[-1] > 1
            drawn = torch.randn(parameter.shape, generator=generator) * 0.05
            parameter.copy_(drawn if matrix else torch.full_like(parameter, 0.5))
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = 1.0  # take the statistics of this batch as they are
        norm.train()
    module(batch)
    for norm in norms:
        norm.eval()
