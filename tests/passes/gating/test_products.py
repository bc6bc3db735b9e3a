"""Products with layers' weights: what rows of a weight meet, whatever the layer's own forward() does around them."""

from __future__ import annotations

import pytest
import torch
from edgepress.passes.gating.products import Call, Product, Products, Sampled, calls_in_order
from quantization_nets import Net
from torch import Tensor, nn
from torch.nn import functional as F


class PadsItself(nn.Conv2d):
    """As TensorFlow's SAME does it: one more at the end."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, (0, 1, 0, 1))
        return F.conv2d(x, self.weight, self.bias, stride=2)


LAYERS: list[tuple[nn.Module, tuple[int, ...], int]] = [
    (nn.Linear(6, 4), (3, 6), 0),
    (nn.Linear(6, 4, bias=False), (3, 5, 6), 0),
    (nn.Linear(6, 4), (5, 3, 6), 1),  # (tokens, samples, channels)
    (nn.Linear(6, 4), (3, 2, 5, 6), 0),
    (nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False), (3, 4, 9, 8), 0),
    (nn.Conv2d(4, 6, (3, 2), padding=(0, 1), dilation=(1, 2)), (3, 4, 9, 8), 0),
    (nn.Conv2d(4, 6, 3, padding="same", padding_mode="reflect"), (3, 4, 9, 8), 0),
    (nn.Conv1d(4, 6, 3, stride=2), (3, 4, 9), 0),
    (PadsItself(4, 6, 3), (3, 4, 8, 8), 0),
]


@pytest.mark.parametrize(("layer", "shape", "axis"), LAYERS)
def test_the_weight_times_its_rows_is_what_the_layer_puts_out(
    layer: nn.Module, shape: tuple[int, ...], axis: int
) -> None:
    seen: list[tuple[Product, Tensor]] = []
    with torch.no_grad(), Products(layer, after=lambda product, outputs: seen.append((product, outputs))):
        layer(torch.randn(shape))
    [(product, outputs)] = seen
    positions = outputs.numel() // outputs.shape[product.channel_axis] // outputs.shape[axis]
    sampled = Sampled.drawn(axis, torch.ones(positions), 4)
    rows, made = product.rows(sampled), product.made(outputs, sampled)
    expected = rows @ product.weight.flatten(1).T + (0 if product.bias is None else product.bias)
    assert made.shape[:2] == (3, min(4, positions))
    torch.testing.assert_close(expected, made, rtol=1e-4, atol=1e-5)  # sums in another order


def test_positions_are_the_same_ones_each_time_and_in_every_column_of_a_map() -> None:
    alike = torch.ones(64 * 64)
    first = Sampled.drawn(0, alike, 128).positions
    assert torch.equal(first, Sampled.drawn(0, alike, 128).positions)
    assert len(first.unique()) == 128
    # 128 throws into 64 columns miss 64 · (63/64)^128 = 8.5 of them on average
    assert len((first % 64).unique()) > 48


def test_what_matters_most_is_drawn_for_sure_and_the_rest_stands_for_what_is_not() -> None:
    """Of 10 of 100 positions one is the first, which matters as much as all others: these count 99 / 9 times."""
    sampled = Sampled.drawn(0, torch.tensor([99.0, *[1.0] * 99]), 10)
    assert len(sampled.positions) == 10 and int(sampled.positions[0]) == 0
    torch.testing.assert_close(sampled.weights, torch.tensor([99.0, *[11.0] * 9]))


def test_the_rest_is_drawn_in_proportion() -> None:
    """Of 500 that matter 1 and 500 that matter 3 a hundred: 25 and 75, and each stands for 2000 / 100."""
    matters = torch.tensor([1.0, 3.0]).repeat(500)
    sampled = Sampled.drawn(0, matters, 100)
    assert (
        abs(int((matters[sampled.positions] == 3).sum()) - 75) <= 8
    )  # random order: 3 standard errors at most
    assert len(sampled.positions) == 100
    torch.testing.assert_close(sampled.weights, torch.full((100,), 20.0))


def test_what_is_drawn_of_few_is_not_always_the_one_that_matters_most() -> None:
    """By a random start also the others have their chance: over many sizes each is met."""
    met = {
        int(Sampled.drawn(0, torch.linspace(1, 2, size), 1).positions) / size < 0.5 for size in range(4, 40)
    }
    assert met == {True, False}


def test_all_positions_are_looked_at_where_there_are_few() -> None:
    matters = torch.tensor([3.0, 0.5, 0.5])
    sampled = Sampled.drawn(0, matters, 7)
    assert sampled.positions.tolist() == [0, 1, 2]
    torch.testing.assert_close(sampled.weights, matters)


class Standardized(nn.Conv2d):
    """Multiplies with a function of its weight."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight - self.weight.mean((1, 2, 3), keepdim=True))


def calls(net: nn.Module, *shape: int) -> dict[str, Call]:
    return calls_in_order(net.eval(), (torch.randn(*shape),))


def test_calls_come_in_their_order_and_say_how_often() -> None:
    net = Net(
        lambda n, x: n.a(n.b(n.b(x))) + n.c(x),
        a=nn.Conv2d(2, 2, 1), b=nn.Conv2d(2, 2, 1), c=nn.Conv2d(2, 2, 1, groups=2),
    )  # fmt: skip
    found = calls(net, 1, 2, 4, 4)
    assert {name: call.times for name, call in found.items()} == {"b": 2, "a": 1, "c": 1}
    assert list(found) == ["b", "a", "c"]
    assert found["c"].product.settings["groups"] == 2


def test_no_product_with_a_weight_as_it_is() -> None:
    """It is changed first, or several layers share it."""
    net = Net(
        lambda n, x: n.two(n.one(n.standardized(x))),
        standardized=Standardized(2, 2, 1), one=nn.Conv2d(2, 2, 1), two=nn.Conv2d(2, 2, 1),
    )  # fmt: skip
    net.two.weight = net.one.weight
    assert calls(net, 1, 2, 4, 4) == {}


def test_the_norm_behind_a_layer_is_told_where_nothing_else_reads_it() -> None:
    def both(net: nn.Module, x: Tensor) -> Tensor:
        y = net.shared(x)
        return net.norm1(y) + y.mean() + net.norm2(net.alone(x)) + net.late(F.relu(net.active(x)))

    parts = {name: nn.Conv2d(2, 2, 1, bias=False) for name in ("shared", "alone", "active")}
    norms = {name: nn.BatchNorm2d(2) for name in ("norm1", "norm2", "late")}
    found = calls(Net(both, **parts, **norms), 1, 2, 4, 4)
    assert {name: call.norm for name, call in found.items()} == {
        "shared": None,
        "alone": "norm2",
        "active": None,
    }


def test_asking_for_a_shape_is_not_reading() -> None:
    def forward(net: nn.Module, x: Tensor) -> Tensor:
        y = net.layer(x)
        return net.norm(y) if y.shape[1] == 2 and y.dim() == 4 else y

    net = Net(forward, layer=nn.Conv2d(2, 2, 1, bias=False), norm=nn.BatchNorm2d(2))
    assert calls(net, 1, 2, 4, 4)["layer"].norm == "norm"
