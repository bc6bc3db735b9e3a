"""A small residual network whose blocks hold a grouped convolution, between a stem and a head."""

from __future__ import annotations

import torch
from edgepress.model import Model
from torch import Tensor, nn
from torch.nn import functional as F


class GroupedBlock(nn.Module):
    """A wider layer, a grouped one that reads it, and one back to the width of the skip connection."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(8, 16, 1), nn.Conv2d(16, 16, 3, padding=1, groups=4)
        self.conv3 = nn.Conv2d(16, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.conv3(F.relu(self.conv2(F.relu(self.conv1(x)))))
        return y


class Grouped(nn.Module):
    """Two such blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.blocks = nn.Sequential(GroupedBlock(), GroupedBlock())
        self.neck, self.head = nn.Conv2d(8, 12, 1), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(F.relu(self.neck(self.blocks(self.stem(x)))).mean((2, 3)))
        return y


def grouped_model() -> Model:
    """The network on images of 8 x 8."""
    torch.manual_seed(0)
    return Model(Grouped().eval(), (torch.randn(2, 3, 8, 8),))
