"""What `l2` must leave as it is, what stays alike although it becomes codes, and networks that it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import quantization_nets as nets
import torch
import torch.nn.functional as F
from edgepress.calibration.data import Part
from edgepress.errors import CompressError
from edgepress.model import Model
from edgepress.passes.base import PassPlan
from edgepress.passes.l2 import L2
from l2_plans import UNTRAINED, bytes_of_codes, plan_of
from torch import Tensor, nn

NAN = float("nan")


def net(forward: Callable[..., Tensor], **parts: Tensor | nn.Module) -> nn.Module:
    """A linear layer `fc`, 20 to 64, with further modules, parameters and buffers, in a forward of its own."""
    found = nets.Net(forward, fc=nn.Linear(20, 64))
    for name, part in parts.items():
        if isinstance(part, nn.Module | nn.Parameter):
            setattr(found, name, part)
        else:
            found.register_buffer(name, part)
    return found


def layer_with(change: Callable[[Tensor], object]) -> nn.Linear:
    """A linear layer, 20 to 64, whose weight is changed in place."""
    layer = nn.Linear(20, 64)
    with torch.no_grad():
        change(layer.weight)
    return layer


@dataclass(frozen=True)
class Case:
    """kept: tensors that stay bit for bit; coded: those that become codes beside `fc.weight`."""

    module: Callable[[], nn.Module]
    kept: tuple[str, ...]
    coded: tuple[str, ...] = ()
    ratio: float = 3


LEFT_ALONE = {
    "an integer parameter": Case(
        lambda: net(lambda m, x: m.fc(x[:, m.order]), order=nn.Parameter(torch.randperm(20), requires_grad=False)),
        ("order",),
    ),
    "a mask": Case(
        lambda: net(lambda m, x: m.fc(x).masked_fill(m.mask, 0.0), mask=torch.arange(64) % 2 == 0), ("mask",)
    ),
    "a matrix in a buffer": Case(
        lambda: net(lambda m, x: m.fc(x) @ m.table, table=torch.randn(64, 4)), ("table",), ratio=2
    ),
    "a complex parameter": Case(
        lambda: net(
            lambda m, x: m.fc(torch.fft.irfft(torch.fft.rfft(x) * m.filter, n=20)),
            filter=nn.Parameter(torch.randn(11, dtype=torch.complex64)),
        ),
        ("filter",),
        ("fc.bias",),
    ),
    "a parameter without elements": Case(
        lambda: net(
            lambda m, x: torch.cat([m.fc(x), m.none.expand(x.shape[0], 0)], 1), none=nn.Parameter(torch.empty(1, 0))
        ),
        ("none",),
    ),
    "a parameter that is NaN": Case(
        lambda: net(
            lambda m, x: torch.where(m.there, m.fc(x), m.other),
            there=torch.ones(64, dtype=torch.bool),
            other=nn.Parameter(torch.full((64,), NAN)),
        ),
        ("there", "other"),
    ),
    "a parameter that is infinite in places": Case(
        lambda: net(
            lambda m, x: (m.fc(x) + m.allowed).softmax(-1),
            allowed=nn.Parameter(torch.where(torch.arange(64) < 5, float("-inf"), 0.1)),
        ),
        ("allowed",),
    ),
    "a layer with one weight that is NaN": Case(
        lambda: net(
            lambda m, x: torch.nan_to_num(m.odd(x)) + m.fc(x), odd=layer_with(lambda w: w[3, 4].fill_(NAN))
        ),
        ("odd.weight",),
        ratio=1.5,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", LEFT_ALONE)
def test_what_must_be_left_alone(case: str) -> None:
    told = LEFT_ALONE[case]
    model, result = plan_of(told.module(), (20,), {"ratio": told.ratio})
    assert set(result.model.coded) == {"fc.weight", *told.coded}
    before, after = model.module.state_dict(), result.model.module.state_dict()
    assert [name for name in told.kept if not same(before[name], after[name])] == []
    assert alike(model, result.model, 20) < 0.02


def same(one: Tensor, other: Tensor) -> bool:
    """Bit for bit, NaN included."""
    return (
        one.dtype == other.dtype
        and torch.equal(one.isnan(), other.isnan())
        and (torch.equal(one[~one.isnan()], other[~other.isnan()]))
    )


def alike(before: Model, after: Model, *shape: int) -> float:
    """The mean squared change of the outputs on samples that the pass did not see, over their variance."""
    x = torch.randn(50, *shape, generator=torch.Generator().manual_seed(3))
    one, other = before.run(x)[0], after.run(x)[0]
    return float(((one - other) ** 2).mean() / one.var())


# Codes that keep what their tensors are


def test_tensors_of_fewer_than_sixteen_numbers_are_never_codes() -> None:
    module = nn.Sequential(nn.Linear(20, 64), nn.PReLU(), nn.Linear(64, 15), nn.LayerNorm(15))
    model, result = plan_of(module, (20,), {"ratio": 3})
    assert set(result.model.coded) == {"0.weight", "2.weight"}
    assert alike(model, result.model, 20) < 0.01


def test_equal_weights_stay_equal_and_zeros_zero() -> None:
    module = net(
        lambda m, x: m.zeros(x) + m.rows(x) + m.fc(x) + m.equal(x),
        equal=layer_with(lambda w: w.fill_(0.37)),
        zeros=layer_with(lambda w: w.zero_()),
        rows=layer_with(lambda w: w[::2].zero_()),
    )
    model, result = plan_of(module, (20,), {"ratio": 4})
    after = result.model.module.state_dict()
    assert {"equal.weight", "zeros.weight", "rows.weight"} <= set(result.model.coded)
    assert not after["zeros.weight"].any() and not after["rows.weight"][::2].any()
    assert after["equal.weight"] == pytest.approx(0.37, rel=0.1)
    assert alike(model, result.model, 20) < 0.01


def test_the_row_of_an_embedding_for_padding_stays_zero() -> None:
    module = net(
        lambda m, x: m.fc(m.embed((2 * x.abs()).long().clamp(max=7)).sum(1)),
        embed=nn.Embedding(8, 20, padding_idx=0),
    )
    model, result = plan_of(module, (20,), {"ratio": 3})
    assert not result.model.module.state_dict()["embed.weight"][0].any()
    assert alike(model, result.model, 20) < 0.01


class TiedWords(nn.Module):
    """Words in, scores of words out, through one matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.fc = nn.Embedding(64, 24), nn.Linear(24, 24)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.fc(self.embed(x)).mean(1), self.embed.weight)


def test_an_embedding_that_is_the_head_too_becomes_codes_once() -> None:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    rows = [((torch.randint(0, 64, (5,), generator=generator),), torch.tensor(0)) for _ in range(32)]
    model = Model(TiedWords().eval(), (torch.zeros(1, 5, dtype=torch.long),))
    context = nets.context_of(Part("calibration", rows), packed_bytes=bytes_of_codes)
    result = L2.model_validate({**UNTRAINED, "ratio": 3}).apply(model, context)
    assert set(result.model.coded) == {"embed.weight", "fc.weight"}
    assert set(result.model.module.state_dict()) == {"embed.weight", "fc.weight", "fc.bias"}
    x = torch.stack([words for (words,), _ in rows])
    before, after = model.run(x)[0], result.model.run(x)[0]
    assert float(((before - after) ** 2).mean() / before.var()) < 0.01


def test_a_layer_that_is_called_twice_becomes_codes_once() -> None:
    module = nets.Net(lambda m, x: m.fc(m.fc(x).relu()), fc=nn.Linear(40, 40))
    model, result = plan_of(module, (40,), {"ratio": 3})
    assert set(result.model.coded) == {"fc.weight"}
    assert list(result.model.module.state_dict()) == ["fc.weight", "fc.bias"]
    assert alike(model, result.model, 40) < 0.01


@pytest.mark.parametrize("training", [0, 1])
def test_frozen_weights_of_the_network_become_codes_and_stay_frozen_there(training: int) -> None:
    module = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 20)).requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    model, result = plan_of(module, (20,), {"ratio": 3, "training": {"epochs": training, "batch": 16}})
    assert set(result.model.coded) == {"0.weight", "2.weight"}
    assert [n for n, t in model.module.state_dict().items() if not torch.equal(before[n], t)] == []
    assert not any(p.requires_grad for p in model.module.parameters())
    assert alike(model, result.model, 20) < 0.01


LAYERS = {
    "depthwise": ((8, 8, 8), lambda: nn.Conv2d(8, 16, 3, groups=8), 16 * 36),
    "grouped": ((8, 8, 8), lambda: nn.Conv2d(8, 16, 3, groups=4), 16 * 36),
    "transposed, grouped": ((8, 6, 6), lambda: nn.ConvTranspose2d(8, 16, 3, groups=2), 16 * 64),
    "one dimension": ((8, 18), lambda: nn.Conv1d(8, 16, 3), 16 * 16),
    "three dimensions": ((4, 4, 4, 4), lambda: nn.Conv3d(4, 16, 3), 16 * 8),
}


@pytest.mark.parametrize("case", LAYERS)
def test_convolutions_of_every_kind_are_kept(case: str) -> None:
    shape, layer, size = LAYERS[case]
    module = nn.Sequential(layer(), nn.ReLU(), nn.Flatten(), nn.Linear(size, 10))
    model, result = plan_of(module, shape, {"ratio": 3})
    assert set(result.model.coded) == {"0.weight", "3.weight"}
    assert alike(model, result.model, *shape) < 0.01


def test_a_stored_plan_makes_the_same_network() -> None:
    module = net(lambda m, x: m.fc(x) * m.factor, factor=nn.Parameter(torch.tensor(1.7)))
    model, result = plan_of(module, (20,), {"ratio": 3})
    plan = PassPlan(json.loads(json.dumps(result.plan.structure)), result.plan.tensors)
    context = nets.context_of(nets.samples(32, 20), packed_bytes=bytes_of_codes)
    again = L2().rebuild(model, plan, context)
    x = torch.randn(9, 20)
    assert torch.equal(again.run(x)[0], result.model.run(x)[0])


# Refused


def scaled(before: float, after: float) -> nn.Module:
    return nets.Net(lambda m, x: m.fc(before * x) * after, fc=nn.Linear(20, 64))


REFUSED: dict[str, tuple[Callable[[], nn.Module], dict[str, Any], str]] = {
    "gradients that are no numbers": (
        lambda: nets.Net(lambda m, x: (m.fc(x) * 0.0).sqrt() + m.fc(x), fc=nn.Linear(20, 64)),
        {"ratio": 3},
        "l2: the outputs' gradient in fc.weight is NaN or infinite: the network computes with values out of range",
    ),
    "inputs whose squares are out of range": (
        lambda: scaled(1e25, 1e-25),
        {"ratio": 3},
        "l2: the inputs of the layer with fc.weight are too large, or NaN, for their squares to be added up",
    ),
    "buffers alone": (
        lambda: nn.Sequential(nn.BatchNorm1d(20, affine=False), nn.Tanh()),
        {"ratio": 3},
        "l2: the network has no weights that could become codes: all are buffers, integers, NaN or infinite; leave l2"
        " out, and pack the model as it is",
    ),
    "codes of zeros that are not small enough": (
        lambda: nn.Sequential(nn.Linear(20, 64)),
        {"bytes": "100"},
        "l2: 100 bytes cannot be reached: the coarsest codes make a file of ",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case: str) -> None:
    module, options, told = REFUSED[case]
    with pytest.raises(CompressError) as caught:
        plan_of(module(), (20,), options)
    assert str(caught.value).startswith(told)


def test_fewer_samples_than_the_network_takes_at_once_are_refused() -> None:
    model = Model(nn.Linear(20, 64).eval(), (torch.randn(40, 20),), dynamic_batch=False)
    context = nets.context_of(nets.samples(6, 20), packed_bytes=bytes_of_codes)
    with pytest.raises(CompressError) as caught:
        L2(samples="calibration").plan(model, context)
    assert str(caught.value) == "l2: the calibration part of the data has 6 samples; give it more"


def test_it_is_refused_where_nothing_tells_what_a_file_takes() -> None:
    context = replace(nets.context_of(nets.samples(32, 20)), packed_bytes=None)
    with pytest.raises(CompressError) as caught:
        L2().plan(nets.model_of(nn.Linear(20, 64), 20), context)
    assert str(caught.value) == "l2: it needs to know what a packed file takes: run it from a recipe"
