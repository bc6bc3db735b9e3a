"""Multiply-accumulates of torch operators against numbers worked out by hand, and what is unknown."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from edgepress.model import Model
from edgepress.torch_macs import count_macs
from torch import Tensor, nn
from torch.nn import functional as F


class Of(nn.Module):
    """A module that returns the first output of what it holds."""

    def __init__(self, inner: nn.Module | Callable[..., Tensor], inputs: int = 1) -> None:
        super().__init__()
        self.inner, self.inputs = inner, inputs

    def forward(self, x: Tensor) -> Tensor:
        found = self.inner(*[x] * self.inputs)
        return found[0] if isinstance(found, tuple) else found


# Batch 1, 5 steps or tokens, 8 features.
COUNTED = [
    pytest.param(nn.LSTM(8, 6, batch_first=True), 5 * 4 * 6 * (8 + 6), id="LSTM: 4 gates"),
    pytest.param(nn.GRU(8, 6, batch_first=True), 5 * 3 * 6 * (8 + 6), id="GRU: 3 gates"),
    pytest.param(nn.RNN(8, 6, batch_first=True), 5 * 6 * (8 + 6), id="RNN"),
    pytest.param(
        nn.LSTM(8, 6, num_layers=2, bidirectional=True, batch_first=True),
        2 * 5 * 4 * 6 * (8 + 6) + 2 * 5 * 4 * 6 * (12 + 6),
        id="LSTM: two layers, the second reads both directions",
    ),
    pytest.param(
        nn.LSTM(8, 6, proj_size=3, batch_first=True), 5 * (4 * 6 * (8 + 3) + 6 * 3), id="LSTM with a projection"
    ),
    pytest.param(lambda x: torch.einsum("btf,bsf->bts", x, x), 5 * 5 * 8, id="einsum: a matrix product"),
    pytest.param(lambda x: torch.einsum("bi,bj->bij", x[:, 0], x[:, 1]), 0, id="einsum: an outer product is free"),
    pytest.param(nn.MultiheadAttention(8, 2, batch_first=True), 4 * 5 * 64 + 2 * 5 * 5 * 8, id="attention, fast path"),
    pytest.param(F.scaled_dot_product_attention, 2 * 5 * 5 * 8, id="fused attention"),
    pytest.param(lambda x: F.bilinear(x[:, 0], x[:, 1], torch.ones(3, 8, 8)), 3 * 8 * 8 + 3 * 8, id="bilinear"),
    pytest.param(lambda x: torch.cdist(x, x), 5 * 5 * 8, id="Euclidean distances"),
    pytest.param(lambda x: torch.baddbmm(torch.ones(1, 5, 5), x, x.mT), 5 * 5 * 8, id="baddbmm"),
    pytest.param(lambda x: torch.addbmm(torch.ones(5, 5), x, x.mT), 5 * 5 * 8, id="addbmm"),
    pytest.param(lambda x: torch.addmv(torch.ones(5), x[0], x[0, 0])[None], 5 * 8, id="addmv"),
    pytest.param(lambda x: x @ x[0, 0], 5 * 8, id="matrix by vector"),
    pytest.param(nn.ConvTranspose1d(5, 4, 3), 5 * 8 * 4 * 3, id="transposed convolution"),
    pytest.param(lambda x: F.interpolate(F.softmax(x, -1), 3).cumsum(1).sort().values, 0, id="nothing multiplies"),
]  # fmt: skip


def inputs_of(inner: object) -> int:
    many = inner is F.scaled_dot_product_attention or isinstance(inner, nn.MultiheadAttention)
    return 3 if many else 1


@pytest.mark.parametrize(("inner", "macs"), COUNTED)
def test_counts(inner: nn.Module, macs: int) -> None:
    module = Of(inner, inputs_of(inner)).eval()
    assert Model(module, (torch.randn(1, 5, 8),)).facts().macs == macs


def test_a_batch_is_divided_out() -> None:
    module = Of(nn.LSTM(8, 6, batch_first=True)).eval()
    assert Model(module, (torch.randn(3, 5, 8),)).facts().macs == 5 * 4 * 6 * (8 + 6)


def test_a_condition_counts_its_costlier_branch() -> None:
    class Branches(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cond(x.sum() > 1e9, lambda v: v @ v.mT, lambda v: v[:, :, :5] + 1, (x,))

    assert sum(one.macs or 0 for one in count_macs(Branches(), (torch.randn(1, 5, 8),))) == 5 * 5 * 8


def test_deformable_convolutions_count_as_convolutions() -> None:
    ops = pytest.importorskip("torchvision.ops")

    class Deformable(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return ops.deform_conv2d(x, torch.zeros(len(x), 18, 4, 4), torch.ones(4, 3, 3, 3))

    assert Model(Deformable(), (torch.randn(2, 3, 6, 6),)).facts().macs == 4 * 4 * 4 * 27


@torch.library.custom_op("edgepress_tests::mystery", mutates_args=())
def mystery(x: Tensor) -> Tensor:
    return x @ x.mT


@pytest.mark.parametrize(
    ("inner", "name"),
    [
        pytest.param(lambda x: torch.fft.rfft(x).abs(), "_fft_r2c in 'inner'", id="a Fourier transform"),
        pytest.param(lambda x: torch.cdist(x, x, p=1), "_cdist_forward in 'inner'", id="another norm"),
        pytest.param(lambda x: torch.linalg.det(x[..., :5]), "_linalg_det in 'inner'", id="a determinant"),
        pytest.param(mystery, "edgepress_tests.mystery in 'inner'", id="an operator of a user"),
    ],
)
def test_what_cannot_be_counted_is_unknown_and_named(inner: Callable[[Tensor], Tensor], name: str) -> None:
    class Wrapped(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return inner(x)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.inner = nn.Linear(8, 8), Wrapped()

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(self.linear(x))

    facts = Model(Net(), (torch.randn(1, 5, 8),)).facts()
    assert (facts.macs, facts.counted, facts.uncounted) == (None, 5 * 64, (name,))
    assert facts.macs_text == f"at least 320 MACs a sample (unknown: {name})"
