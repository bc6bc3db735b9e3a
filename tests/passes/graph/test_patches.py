"""Patches of convolutions: against `unfold`, and multiplied with the weight against the convolution itself."""

from __future__ import annotations

import pytest
import torch
from edgepress.passes.graph.patches import padded, patches
from torch import nn
from torch.nn import functional as F

LAYERS: list[tuple[nn.Module, tuple[int, ...]]] = [
    (nn.Conv1d(3, 5, 4, stride=2, padding=1), (3, 12)),
    (nn.Conv2d(4, 6, 3), (4, 7, 6)),
    (nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2)), (4, 9, 8)),
    (nn.Conv2d(4, 6, (2, 3), padding="same", dilation=2), (4, 6, 6)),
    (nn.Conv2d(4, 6, 1, stride=3, padding="valid"), (4, 8, 8)),
    (nn.Conv3d(2, 3, (1, 2, 3), stride=(1, 2, 1), padding=1), (2, 3, 4, 5)),
]


@pytest.mark.parametrize(("layer", "shape"), LAYERS)
def test_the_weight_times_the_patches_is_what_the_layer_puts_out(
    layer: nn.Conv2d, shape: tuple[int, ...]
) -> None:
    inputs, kernel = torch.randn(2, *shape), layer.kernel_size
    found = patches(
        padded(inputs, kernel, layer.padding, layer.dilation), kernel, layer.stride, layer.dilation
    )
    with torch.no_grad():
        wanted = layer(inputs)
        rows = found.reshape(2, layer.weight[0].numel(), -1)
        outputs = layer.weight.flatten(1) @ rows + layer.bias[:, None]
    torch.testing.assert_close(outputs, wanted.flatten(2), rtol=1e-4, atol=1e-5)  # sums in another order


def test_patches_are_those_of_unfold() -> None:
    inputs = torch.randn(2, 3, 9, 8)
    found = patches(padded(inputs, (3, 2), (1, 0), (2, 1)), (3, 2), (2, 3), (2, 1))
    unfolded = F.unfold(inputs, (3, 2), (2, 1), (1, 0), (2, 3))
    assert torch.equal(found.reshape(unfolded.shape), unfolded)


def test_they_are_a_view() -> None:
    inputs = torch.randn(1, 2, 64, 64)
    assert patches(inputs, (7, 7), (1,), (1,)).data_ptr() == inputs.data_ptr()
