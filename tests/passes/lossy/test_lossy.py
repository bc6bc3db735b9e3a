"""`l2`: transforms and the counter by hand, units, rounding, and the pass from end to end."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import quantization_nets as nets
import torch
from edgepress.calibration.data import DataParts, Part
from edgepress.calibration.measurement import Measurement, MetricRecord
from edgepress.calibration.metric import TopK
from edgepress.errors import CompressError
from edgepress.model import CodedTensor, Model
from edgepress.passes.base import PassContext
from edgepress.passes.graph.capture import capture
from edgepress.passes.l2 import L2
from edgepress.passes.lossy.coded import Codes, Unit, about_zero
from edgepress.passes.lossy.counter import alike, entropy_bits, rate
from edgepress.passes.lossy.importance import units
from edgepress.passes.lossy.phases import Phases
from edgepress.passes.lossy.rounding import rounded
from edgepress.passes.lossy.search import FIRST_RATIO, LAST_RATIO, NEAR, drop_of, next_ratio
from edgepress.passes.lossy.transforms import Transform, largest_weight
from edgepress.pipeline.l2z import container
from edgepress.pipeline.l2z.codec import pack_tensors
from l2_plans import bytes_of_codes, plan_of
from torch import Tensor, nn

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


def test_groups_have_masses_of_their_own() -> None:
    """Value and gradient are those of each group alone."""
    codes = (3 * torch.randn(90, generator=torch.Generator().manual_seed(2))).requires_grad_()
    groups = torch.arange(90) % 3
    rate(codes, 0.7, "triangular", groups).backward()
    assert codes.grad is not None
    for group in range(3):
        alone = codes.detach()[groups == group].requires_grad_()
        bits = rate(alone, 0.7)
        bits.backward()
        torch.testing.assert_close(codes.grad[groups == group], alone.grad, rtol=1e-5, atol=1e-5)
    each = [float(rate(codes.detach()[groups == group], 0.7)) for group in range(3)]
    assert float(rate(codes.detach(), 0.7, "triangular", groups)) == pytest.approx(sum(each), rel=1e-5)


@pytest.mark.parametrize("columns", [128, 256, 512, 2])
def test_groups_are_cut_evenly_whatever_columns_there_are(columns: int) -> None:
    """Every other column is large; the sample that tells the cuts must not see one kind alone."""
    sizes = torch.where(torch.arange(columns) % 2 == 0, 20.0, 1.0)
    generator = torch.Generator().manual_seed(0)
    symbols = (sizes * torch.randn(2**16 // columns, columns, generator=generator)).round()
    counts = torch.bincount(alike(symbols).reshape(-1))
    assert len(counts) == 8
    # Even in expectation; rows and columns of one size tie, and a sample of 8192 is off by some per cent.
    assert counts.min() > 0.8 * 2**13
    assert counts.max() < 1.2 * 2**13


def test_codes_of_rows_and_columns_alike_are_grouped() -> None:
    """Codes of a normal distribution whose width is that of its row times that of its column."""
    draws = torch.Generator().manual_seed(3)
    widths = torch.exp2(torch.arange(256) % 3.0)[:, None] * torch.exp2(torch.arange(320) % 2.0)
    symbols = (torch.randn(256, 320, generator=draws) * widths).round()
    groups = alike(symbols)
    told = sum(entropy_bits(symbols[a::3, b::2]) for a in range(3) for b in range(2))
    assert entropy_bits(symbols, groups) == pytest.approx(told, rel=0.01)
    assert entropy_bits(symbols, groups) < 0.97 * entropy_bits(symbols)
    assert not alike(symbols[:8]).any()  # too few to be worth tables


def test_the_rate_predicts_the_payload() -> None:
    """Within 2 %, also where rows and columns are coded by tables of their own."""
    draws = torch.Generator().manual_seed(4)
    for width in (0.3, 1.0, 8.0):
        widths = width * torch.exp(
            0.5 * torch.randn(512, 1, generator=draws) + 0.5 * torch.randn(600, generator=draws)
        )
        symbols = (torch.randn(512, 600, generator=draws) * widths).round().clamp(-127, 127)
        most = int(symbols.abs().max())
        values = about_zero(torch.arange(1.0, most + 1))
        coded = CodedTensor((symbols + most).to(torch.uint8), values)
        _, sections = container.read(pack_tensors({"w": coded.tensor()}, coded={"w": coded}), "x")
        predicted = float(rate(symbols, 0.01, "triangular", alike(symbols))) / 8
        assert predicted == pytest.approx(len(sections.payload), rel=0.02)


def test_a_narrow_kernel_counts() -> None:
    symbols = torch.tensor([0.0, 0, 0, 0, 1, 1, -2, 5])
    # 4 of 8, 2 of 8, twice 1 of 8: 4 · 1 + 2 · 2 + 2 · 3 bits
    assert entropy_bits(symbols) == pytest.approx(14.0)
    assert float(rate(symbols, 0.01)) == pytest.approx(14.0)


def test_one_symbol_takes_nothing_and_pulls_at_nothing() -> None:
    codes = torch.zeros(9, requires_grad=True)
    bits = rate(codes, 0.4)
    bits.backward()
    assert float(bits.detach()) == 0.0 and codes.grad is not None and not codes.grad.any()
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

    @pytest.mark.parametrize("name", TRANSFORMS)
    def test_no_weight_is_clipped_however_fine_the_step(self, name: Any) -> None:
        weight = torch.randn(6, 50, generator=torch.Generator().manual_seed(0))
        weight[2] *= 1e-9
        weight[3] *= 1e9
        graph = capture(nets.model_of(nets.Net(lambda m, x: m.fc(x), fc=nn.Linear(50, 6)), 50))
        graph.fc.weight.data.copy_(weight)
        reach = largest_weight(name)
        [unit] = units(graph, {"fc.weight": 0}, {"fc.weight": torch.rand(6, 50)}, 1e-12, reach).values()
        codes = Codes(weight, unit, name)
        assert float(codes.transform().encode(codes.latent.detach()).abs().max()) <= 127.0001
        # Half of the widest step of log is 6 % of the largest weight.
        assert float(((codes() - weight).abs().amax(1) / weight.abs().amax(1)).max()) < 0.07


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


@pytest.mark.parametrize(
    ("options", "train", "seen"),
    [
        pytest.param({}, 8, 12, id="both parts unless it is told"),
        pytest.param({"samples": "train"}, 8, 8, id="train alone"),
        pytest.param({"samples": "calibration"}, 8, 4, id="calibration alone"),
        pytest.param({"samples": "train"}, 0, 4, id="calibration where there is no train part"),
    ],
)
def test_what_is_learned_from(options: dict[str, Any], train: int, seen: int) -> None:
    model = nets.model_of(nn.Linear(20, 300), 20)
    parts = [Part(name, nets.samples(n, 20).samples) for name, n in (("train", train), ("calibration", 4))]
    data = DataParts(*parts, nets.samples(4, 20), None, manifest="0")
    context = PassContext(data, TopK(1), packed_bytes=bytes_of_codes)
    phases = Phases(L2.model_validate(options), model, context)
    assert len(phases.part) == seen


class TwoHeads(nn.Module):
    """Classes from one layer and values from another."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.classes, self.values = nn.Linear(20, 64), nn.Linear(64, 3), nn.Linear(64, 40)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.body(x).relu()
        return self.classes(x), self.values(x)


def test_the_weights_of_every_output_are_kept() -> None:
    model, result = plan_of(TwoHeads(), (20,), {"ratio": 4}, output_names=("classes", "values"))
    x = torch.randn(100, 20, generator=torch.Generator().manual_seed(3))
    for before, after in zip(model.run(x), result.model.run(x), strict=True):
        assert float(((before - after) ** 2).mean() / before.var()) < 0.05


def test_a_tensor_of_denormal_numbers_leaves_the_network_as_it_is() -> None:
    net = nn.Sequential(nn.Linear(20, 200), nn.ReLU(), nn.Linear(200, 20))
    net[0].weight.data.mul_(1e-39)
    model, result = plan_of(net, (20,), {"ratio": 3})
    x = torch.randn(50, 20, generator=torch.Generator().manual_seed(3))
    after = result.model.run(x)[0]
    assert bool(after.isfinite().all())
    assert float(((model.run(x)[0] - after) ** 2).mean() / after.var()) < 0.05


class Masked(nn.Module):
    """Attention whose mask is a buffer of -100: far from anything that rounding may touch."""

    def __init__(self) -> None:
        super().__init__()
        self.projection = nn.Linear(16, 48)
        self.register_buffer("mask", -100.0 * torch.ones(6, 6).triu(1))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.projection(x).chunk(3, -1)
        return ((q @ k.mT + self.mask).softmax(-1) @ v).mean(1)


def test_buffers_stay_as_they_are() -> None:
    model, result = plan_of(Masked(), (6, 16), {"ratio": 2})
    assert torch.equal(result.model.module.get_buffer("mask"), model.module.get_buffer("mask"))
    assert "projection.weight" in result.model.coded and "mask" not in result.model.coded


def test_what_is_computed_from_parameters_is_coded_and_a_matrix_in_a_buffer_is_not() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.positions = nn.Parameter(torch.randn(1, 64, 32))
            self.register_buffer("spectrum", torch.randn(32, 32))
            self.layer = nn.Linear(32, 16)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer((x + self.positions[:, :48]) @ self.spectrum).mean(1)

    model, result = plan_of(Net(), (48, 32), {"ratio": 3})
    shapes = [tuple(each.indices.shape) for each in result.model.coded.values()]
    assert (1, 48, 32) in shapes and (16, 32) in shapes
    assert torch.equal(result.model.module.get_buffer("spectrum"), model.module.get_buffer("spectrum"))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_networks_of_other_types_are_told(dtype: torch.dtype) -> None:
    net = nn.Sequential(nn.Linear(20, 200), nn.ReLU(), nn.Linear(200, 3)).to(dtype).eval()
    model = Model(net, (torch.randn(1, 20, dtype=dtype),))
    part = Part("train", [((x.to(dtype),), y) for (x,), y in nets.samples(32, 20).samples])
    context = nets.context_of(part, packed_bytes=bytes_of_codes)
    kind = str(dtype).removeprefix("torch.")
    with pytest.raises(CompressError, match=rf"l2: 0.weight is {kind}; give the network in float32"):
        L2(ratio=4).plan(model, context)


def test_a_size_that_wide_tensors_reach_with_coarser_steps() -> None:
    """One value far out makes a factor wide at fine steps: zeros elsewhere are not the end."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.factor = nn.Parameter(torch.randn(400))
            self.factor.data[0] = 20

        def forward(self, x: Tensor) -> Tensor:
            return x * self.factor

    _, result = plan_of(Net(), (400,), {"bytes": "400"})
    assert bytes_of_codes(result.model) <= 400


def test_a_value_far_beyond_all_others_leaves_its_tensor_as_it_is() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.mask = nn.Linear(20, 64), nn.Parameter(torch.randn(64))
            self.mask.data[0] = -1e9

        def forward(self, x: Tensor) -> Tensor:
            return (self.layer(x) + self.mask).softmax(-1)

    model, result = plan_of(Net(), (20,), {"ratio": 2})
    found = dict(result.model.module.named_parameters())["mask"]
    assert torch.equal(found, model.module.mask) and list(result.model.coded)


def test_a_network_of_few_weights_trains_too() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 3))
    options = {"bytes": "3kB", "transform_epochs": 1, "training": {"epochs": 1, "batch": 8}}
    _, result = plan_of(net, (3,), options)
    assert not result.model.coded and result.model.facts().bytes == 4 * (16 + 15)


def test_classes_that_are_all_certain_are_told() -> None:
    net = nets.Net(lambda m, x: m.fc(x) * 1e6, fc=nn.Linear(20, 40))
    with pytest.raises(CompressError, match="l2: no output depends on the weights by a gradient"):
        plan_of(net, (20,), {"ratio": 3})


def test_a_network_without_weights_is_told() -> None:
    with pytest.raises(CompressError, match="l2: the network has no weights that could become codes"):
        plan_of(nets.Net(lambda m, x: x.flatten(1)), (3, 2), {"ratio": 4})


def test_a_static_batch_above_the_samples_to_look_at() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(20, 200), nn.ReLU(), nn.Linear(200, 3))
    model = Model(module.eval(), (torch.randn(12, 20),), dynamic_batch=False)
    context = nets.context_of(nets.samples(32, 20), packed_bytes=bytes_of_codes)
    options = {"ratio": 3, "importance_samples": 4, "transform_epochs": 0, "training": {"epochs": 0}}
    assert L2.model_validate(options).apply(model, context).model.coded


@pytest.mark.parametrize("ratio", [3, 4, 8])
def test_small_networks_end_near_their_target(ratio: float) -> None:
    """Where tables and values are a large share of the file, which changes with the codes."""
    model, result = plan_of(
        nn.Sequential(nn.Linear(30, 40), nn.ReLU(), nn.Linear(40, 30)), (30,), {"ratio": ratio}
    )
    size = bytes_of_codes(result.model)
    assert 0.9 * model.facts().bytes / ratio < size <= model.facts().bytes / ratio


def test_outlying_vectors_are_stored_as_multiples_in_floats() -> None:
    """A bias with one value far out, that nothing depends on, and others that matter."""
    net = nn.Sequential(nn.Linear(20, 200), nn.ReLU(), nn.Linear(200, 20))
    net[0].bias.data[7] = -300
    _, result = plan_of(net, (20,), {"ratio": 5})
    name = next(n for n, t in result.model.module.named_parameters() if t.shape == (200,))
    found = result.model.module.get_parameter(name).detach()
    assert name not in result.model.coded
    assert found[7] == pytest.approx(-300, rel=1e-3)
    inner = torch.cat([found[:7], found[8:]])
    assert float((inner - torch.cat([net[0].bias[:7], net[0].bias[8:]])).abs().max().detach()) < 0.3
    bits = found.view(torch.int32)
    assert not bool((bits & 0xF).any())  # whole multiples of a power of two
    assert len(bits.unique()) > 20 and bool((found[:7] != net[0].bias[:7]).any())


@pytest.mark.parametrize("limit", [2.6, 7.0, 9.9, 10.0, 12.0, 28.0, 75.0, 150.0, 1000.0])
def test_the_search_ends_near_the_smallest_file_that_is_kept(limit: float) -> None:
    kept, lost, tried = 0.0, math.inf, 0
    ratio: float | None = FIRST_RATIO
    while ratio is not None:
        kept, lost = (ratio, lost) if ratio <= limit else (kept, ratio)
        tried += 1
        ratio = next_ratio(kept, lost)
    assert min(limit, LAST_RATIO) / NEAR <= kept <= limit
    assert tried <= 7


def test_a_drop_has_the_error_of_paired_samples() -> None:
    """Three of 100 samples are lost and one is won: 2 points; the differences' squares sum to 4, 100 * 0.02^2 of them
    the mean's, over n - 1.
    """
    before, after = np.array([1] * 60 + [0] * 40), np.array([1] * 57 + [0] * 42 + [1])
    drop = drop_of(*(Measurement(validation_record(s.mean()), s) for s in (before, after)))
    assert (drop.points, drop.n) == (pytest.approx(2.0), 100)
    assert drop.error == pytest.approx(100 * ((4 - 100 * 0.02**2) / 99) ** 0.5 / 10)
    assert str(drop) == "+2.00 ± 2.00 points of the validation part (n = 100)"


def test_a_drop_of_one_sample_has_no_error() -> None:
    drop = drop_of(*(Measurement(validation_record(s), np.array([s])) for s in (1.0, 0.0)))
    assert str(drop) == "+100.00 points of the validation part (n = 1)"


def validation_record(value: float) -> MetricRecord:
    return MetricRecord(name="top1", value=value, n=100, ci95=(0, 1), part="validation")


def test_the_search_gives_up_where_nothing_is_kept() -> None:
    assert [next_ratio(0, lost) for lost in (10.0, 5.0, 2.5)] == [5.0, 2.5, None]


class Tabled(nn.Module):
    """A linear layer of 36,600 numbers, and a buffer of 600 times `width`, which nothing makes smaller."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Linear(60, 600)
        self.register_buffer("table", torch.randn(600, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x).relu() @ self.table


def test_the_search_keeps_what_it_found_where_the_next_size_is_out_of_reach() -> None:
    """The buffer is a sixteenth of the network: a file may be a tenth of it, none a twentieth."""
    _, result = plan_of(Tabled(4), (60,), {"max_drop": 100})
    tried = [note for note in result.notes if "x loses " in note or note.startswith("no codes take ")]
    assert tried[0].startswith("10.") and tried[1].startswith("no codes take 20.")
    assert result.plan.structure["bytes"] <= 39_000 * 4 / 10
    assert result.model.coded


def test_a_search_that_finds_nothing_tells_what_it_tried() -> None:
    with pytest.raises(
        CompressError,
        match=r"l2: no file loses at most 1 points: no codes take 10\.0x less; no codes take 5\.0x less; no codes take"
        r" 2\.5x less\. Allow a larger max_drop",
    ):
        plan_of(Tabled(60), (60,), {"max_drop": 1})


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
