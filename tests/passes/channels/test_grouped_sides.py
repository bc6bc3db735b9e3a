"""What convolutions in groups read is told alike, whatever of a network may go."""

from __future__ import annotations

import torch
from edgepress.model import Model
from edgepress.passes.channels.dissect import Rules, dissect
from grouped_nets import grouped_model
from torch import nn


def sizes(model: Model, rules: Rules) -> dict[str, tuple[int, int]]:
    layers = dissect(model, "test", rules).anatomy.layers
    return {layer.name: (layer.inputs.size, layer.outputs.size) for layer in layers}


def test_a_grouped_convolution_reads_all_that_comes_in_whether_any_of_it_may_go_or_not() -> None:
    model = grouped_model()
    free, kept = sizes(model, Rules()), sizes(model, Rules(keep=("*",)))
    assert kept == free
    assert kept["blocks.0.conv2"] == (16, 16)
    assert sizes(model, Rules(keep=("blocks.0.conv2",))) == free


def test_a_depthwise_convolution_reads_one_channel_for_each_that_it_makes_owned_or_not() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 8, 1),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.Conv2d(8, 16, 3, groups=8),  # two of each
        nn.Conv2d(16, 4, 1),
    )
    model = Model(network.eval(), (torch.randn(2, 3, 8, 8),))
    free, kept = sizes(model, Rules()), sizes(model, Rules(keep=("*",)))
    assert kept == free == {"0": (3, 8), "1": (1, 8), "2": (8, 16), "3": (16, 4)}
