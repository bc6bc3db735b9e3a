"""Two small networks for 32x32 grey digits: a residual CNN and a vision transformer, in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CLASSES = 10
IMAGE_SIZE = 32


def cnn() -> nn.Module:
    """A residual CNN with BatchNorm, about 90,000 parameters: (n, 1, 32, 32) -> logits (n, 10)."""
    return ResidualCNN().eval()


def vit() -> nn.Module:
    """A vision transformer, about 140,000 parameters: (n, 1, 32, 32) -> logits (n, 10)."""
    return VisionTransformer().eval()


def _conv_norm(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    padding = kernel // 2
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which is a 1x1 convolution where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.first = _conv_norm(inputs, outputs, 3, stride)
        self.second = _conv_norm(outputs, outputs, 3)
        same = inputs == outputs and stride == 1
        self.shortcut: nn.Module = nn.Identity() if same else _conv_norm(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) -> (n, outputs, h / stride, w / stride)."""
        return F.relu(self.second(F.relu(self.first(x))) + self.shortcut(x))


class DepthwiseBlock(nn.Module):
    """A depthwise 3x3 and a pointwise convolution; with stride 1 the input is added."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.depthwise = _conv_norm(inputs, inputs, 3, stride, groups=inputs)
        self.pointwise = _conv_norm(inputs, outputs, 1)
        self.residual = inputs == outputs and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) -> (n, outputs, h / stride, w / stride)."""
        y: Tensor = self.pointwise(F.relu(self.depthwise(x)))
        return F.relu(y + x if self.residual else y)


class ResidualCNN(nn.Module):
    """Each stage that larger vision CNNs have, once: full, strided, depthwise, pooling, a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _conv_norm(1, 32, 3)
        self.blocks = nn.Sequential(
            ResidualBlock(32, 32),
            ResidualBlock(32, 64, stride=2),
            DepthwiseBlock(64, 64),
            DepthwiseBlock(64, 96, stride=2),
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(96, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 1, 32, 32) -> logits (n, 10)."""
        features = self.blocks(F.relu(self.stem(x)))
        logits: Tensor = self.head(self.pool(features).flatten(1))
        return logits


class Attention(nn.Module):
    """Multi-head self-attention. It holds its own sizes, and not those of its input, so that heads can be removed."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.head_size = heads, width // heads
        self.qkv = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(n, tokens, width) -> the same shape."""
        n, tokens, _ = x.shape
        qkv = self.qkv(x).reshape(n, tokens, 3, self.heads, self.head_size).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind(0)
        mixed = F.scaled_dot_product_attention(query, key, value)
        projected: Tensor = self.projection(mixed.transpose(1, 2).flatten(2))
        return projected


class TransformerBlock(nn.Module):
    """Pre-norm attention and MLP, each with a residual add."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        """(n, tokens, width) -> the same shape."""
        x = x + self.attention(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class VisionTransformer(nn.Module):
    """4x4 patches, a class token, four pre-norm blocks of width 64, a linear head on the class token."""

    def __init__(self, width: int = 64, depth: int = 4, heads: int = 4, patch: int = 4) -> None:
        super().__init__()
        tokens = (IMAGE_SIZE // patch) ** 2 + 1
        self.patches = nn.Conv2d(1, width, patch, stride=patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.randn(1, tokens, width) * 0.02)
        self.blocks = nn.Sequential(*(TransformerBlock(width, heads, 2 * width) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 1, 32, 32) -> logits (n, 10)."""
        patches = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(x.shape[0], -1, -1), patches], dim=1)
        features = self.norm(self.blocks(tokens + self.positions))
        logits: Tensor = self.head(features[:, 0])
        return logits
