"""`l2`: transforms and the counter by hand, units, rounding, and the pass from end to end."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import quantization_nets as nets
import torch
from edgepress.model import CodedTensor
from edgepress.passes.l2 import L2
from edgepress.passes.lossy.coded import Codes, Unit
from edgepress.passes.lossy.counter import entropy_bits, rate
from edgepress.passes.lossy.rounding import rounded
from edgepress.passes.lossy.transforms import Transform
from edgepress.pipeline.l2z import container
from edgepress.pipeline.l2z.codec import pack_tensors
from torch import Tensor

KERNELS = ("linear", "triangular", "raised-cosine")
TRANSFORMS = ("edge-scale", "scale", "multi-scale", "log", "exp")


def transform(name: Any, step: float, edge: float) -> Transform:
    return Transform(name, torch.tensor(step), torch.tensor(edge))


@pytest.mark.parametrize(
    ("name", "weight", "code"),
    [
        ("scale", 0.7, 0.7 / 0.2),
        ("edge-scale", 0.3, 0.3 / 0.8),  # within the edge of 0.4: w / 2e
        ("edge-scale", 0.4, 0.5),
        ("edge-scale", -0.7, -(0.5 + 0.3 / 0.2)),
        ("multi-scale", 0.3, 1.5),
        ("multi-scale", 0.8, 2 + 0.4 / 0.4),  # two steps to the edge, then steps of 0.4
        ("log", 0.4, 2 * math.log(2)),
        ("exp", -0.4, -2 * (math.e - 1)),
    ],
)
def test_codes_by_hand_and_back(name: str, weight: float, code: float) -> None:
    chosen = transform(name, 0.2, 0.4)
    assert chosen.encode(torch.tensor(weight)).item() == pytest.approx(code, rel=1e-6)
    assert chosen.decode(torch.tensor(code)).item() == pytest.approx(weight, rel=1e-5)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_every_transform_is_odd_and_inverted_by_its_decoding(name: str) -> None:
    chosen = transform(name, 0.05, 0.11)
    weights = torch.linspace(-0.5, 0.5, 101)
    codes = chosen.encode(weights)
    torch.testing.assert_close(chosen.decode(codes), weights, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(codes, -chosen.encode(-weights))
    assert bool((codes.diff() > 0).all())


def masses(codes: Tensor, symbols: range, width: float, kernel: str) -> Tensor:
    """What each symbol gets, by integrating the kernel on a fine grid."""
    x = torch.linspace(-1, 1, 40_001, dtype=torch.float64)
    density = {
        "linear": torch.full_like(x, 0.5),
        "triangular": 1 - x.abs(),
        "raised-cosine": (1 + torch.cos(math.pi * x)) / 2,
    }[kernel]
    share = density / density.sum()
    places = codes.double()[:, None] + width * x
    return torch.stack([((places - q).abs() < 0.5).double() @ share for q in symbols]).sum(1)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("width", [0.2, 0.5, 1.3])
def test_the_rate_is_that_of_integrated_kernels(kernel: Any, width: float) -> None:
    codes = 3 * torch.randn(60, generator=torch.Generator().manual_seed(0))
    counted = masses(codes, range(-15, 16), width, kernel)
    counted = counted[counted > 0]
    expected = float(-(counted * torch.log2(counted / len(codes))).sum())
    assert float(rate(codes, width, kernel)) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("width", [0.2, 0.5, 1.3])
def test_its_gradient_is_that_of_differences(kernel: Any, width: float) -> None:
    """Each code in turn, a little up and a little down."""
    codes = (3 * torch.randn(60, generator=torch.Generator().manual_seed(1))).requires_grad_()
    rate(codes, width, kernel).backward()
    assert codes.grad is not None
    small = 1e-6
    for index in range(len(codes)):
        ends = []
        for sign in (1, -1):
            moved = codes.detach().double()
            moved[index] += sign * small
            counted = exact_masses(moved, width, kernel)
            counted = counted[counted > 0]
            ends.append(float(-(counted * torch.log2(counted / len(codes))).sum()))
        difference = (ends[0] - ends[1]) / (2 * small)
        assert float(codes.grad[index]) == pytest.approx(difference, rel=1e-3, abs=1e-3)


def exact_masses(codes: Tensor, width: float, kernel: str) -> Tensor:
    """The same masses by the distribution functions as one would write them down, in float64."""

    def distribution(x: Tensor) -> Tensor:
        x = x.clamp(-1, 1)
        if kernel == "linear":
            return (x + 1) / 2
        if kernel == "triangular":
            return torch.where(x < 0, (1 + x) ** 2 / 2, 1 - (1 - x) ** 2 / 2)
        return (1 + x + torch.sin(math.pi * x) / math.pi) / 2

    places, q = codes.double()[:, None], torch.arange(-20, 21)
    return (distribution((q + 0.5 - places) / width) - distribution((q - 0.5 - places) / width)).sum(0)


def test_a_narrow_kernel_counts() -> None:
    symbols = torch.tensor([0.0, 0, 0, 0, 1, 1, -2, 5])
    # 4 of 8, 2 of 8, twice 1 of 8: 4 · 1 + 2 · 2 + 2 · 3 bits
    assert entropy_bits(symbols) == pytest.approx(14.0)
    assert float(rate(symbols, 0.01)) == pytest.approx(14.0)


def test_one_symbol_takes_nothing_and_pulls_at_nothing() -> None:
    codes = torch.zeros(9, requires_grad=True)
    bits = rate(codes, 0.4)
    bits.backward()
    assert float(bits) == 0.0 and codes.grad is not None and not codes.grad.any()
    assert entropy_bits(torch.zeros(0)) == 0.0


class TestCodes:
    def test_a_tensor_comes_back_within_half_a_step_beyond_the_edge(self) -> None:
        weight = torch.randn(6, 20, generator=torch.Generator().manual_seed(0))
        unit = Unit(torch.tensor([0.1, 0.2, 0.1, 0.4, 0.1, 0.2]), 0)
        codes = Codes(weight, unit, "edge-scale")
        steps = unit.values[:, None]
        error = (codes() - weight).abs() / steps
        outside = weight.abs() > 0.6 * steps
        assert float(error[outside].detach().max()) <= 0.5 + 1e-5
        assert not codes()[~outside].any()

    def test_the_gradient_passes_straight_through(self) -> None:
        weight = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
        codes = Codes(weight, Unit(torch.tensor([0.3, 0.2, 0.1]), 0), "edge-scale")
        codes().sum().backward()
        assert codes.latent.grad is not None
        torch.testing.assert_close(codes.latent.grad, codes.unit.expand(3, 4))

    def test_the_stored_form_is_the_very_tensor(self) -> None:
        weight = torch.randn(5, 7, 3, generator=torch.Generator().manual_seed(0))
        for unit in (Unit(torch.rand(5) + 0.1, 0), Unit(torch.tensor(0.3))):
            codes = Codes(weight, unit, "log")
            stored = codes.coded(codes.symbols())
            assert torch.equal(stored.tensor(), codes().detach())


def test_rounding_for_the_rate_prefers_the_frequent_code() -> None:
    """0.9 of a step lies nearer to 1; where nearly all codes are 0, and bits dear enough, it becomes 0."""
    weight = torch.zeros(1000)
    weight[:10] = 0.9
    codes = Codes(weight, Unit(torch.tensor(1.0)), "scale")
    assert int(rounded(codes, 0.0).sum()) == 10
    # To 0: 0.81 of squared error; to 1: 0.01 and about 6.6 bits. 0.1155 · s · 6.6 > 0.8 from s = 1.05 on.
    assert int(rounded(codes, 0.9).sum()) == 10
    assert int(rounded(codes, 1.2).sum()) == 0


def test_coded_tensors_multiply_in_float32() -> None:
    coded = CodedTensor(
        torch.tensor([[0, 1], [1, 0]], dtype=torch.uint8),
        torch.tensor([0.0, 1.1]),
        torch.tensor([3.0, 0.7]),
        1,
    )
    expected = np.array(
        [[0.0, np.float32(1.1) * np.float32(0.7)], [np.float32(1.1) * np.float32(3.0), 0.0]], np.float32
    )
    np.testing.assert_array_equal(coded.tensor().numpy(), expected)


def test_labels_are_not_looked_at() -> None:
    """The same plan from data whose labels are all alike."""
    torch.manual_seed(0)
    model = nets.model_of(
        torch.nn.Sequential(
            torch.nn.Conv2d(3, 64, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(64 * 36, 3)
        ),
        3, 8, 8,
    )  # fmt: skip
    plans = []
    for classes in (3, 1):
        context = nets.context_of(nets.samples(32, 3, 8, 8, classes=classes), packed_bytes=bytes_of_codes)
        plans.append(L2(ratio=4, feature_weight=0, training={"epochs": 1, "batch": 8}).plan(model, context))
    assert plans[0].tensors.keys() == plans[1].tensors.keys()
    assert all(torch.equal(plans[0].tensors[name], plans[1].tensors[name]) for name in plans[0].tensors)


def bytes_of_codes(model: Any) -> int:
    """The tensors alone, as an .l2z file holds them."""
    from edgepress.pipeline.l2z.codec import pack_tensors

    tensors = {name: each.tensor() for name, each in model.coded.items()}
    return len(pack_tensors(tensors, coded=model.coded))


def test_the_rate_is_what_the_file_takes() -> None:
    """Of weights alike in all channels, so that one table codes them: within 2 % of the payload."""
    weight = 2 * torch.randn(64, 3000, generator=torch.Generator().manual_seed(0))
    codes = Codes(weight, Unit(torch.ones(64), 0), "edge-scale")
    stored = codes.coded(codes.symbols())
    content = pack_tensors({"w": stored.tensor()}, coded={"w": stored})
    _, sections = container.read(content, "m.l2z")
    predicted = float(rate(codes.symbols(), 0.1).detach()) / 8
    assert predicted == pytest.approx(len(sections.payload), rel=0.02)
    # Before rounding the counter is smooth, and near it.
    assert float(rate(codes.codes().detach(), 0.25)) / 8 == pytest.approx(len(sections.payload), rel=0.02)
