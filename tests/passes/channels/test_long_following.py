"""Channels that are tied in many ways are followed in few steps, or left whole with the reason."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from edgepress.model import Model
from edgepress.passes.channels import dependency_graph
from edgepress.passes.channels.dissect import dissect
from edgepress.passes.channels.dissected import Dissected
from edgepress.passes.channels.gated import Fixed, Gated
from edgepress.passes.channels.kind import Kind
from edgepress.passes.channels.removal import removed
from edgepress.passes.channels.soundness import random_kept
from edgepress.passes.channels.units import gates_of
from torch import Tensor, nn
from torch.nn import functional as F

KEYS = 64


class OneQuery(nn.Module):
    """Attention of MobileViTv2: one query for all keys, made by one layer, then an MLP.

    Where the parts are tied a channel of one is the next of the other, and so on through all.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.both, self.out = nn.Conv2d(width, 1 + 2 * KEYS, 1), nn.Conv2d(KEYS, width, 1)
        self.first, self.second = nn.Conv2d(width, 24, 1), nn.Conv2d(24, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        query, keys, values = self.both(x).split([1, KEYS, KEYS], 1)
        context = (query.flatten(2).softmax(-1).reshape_as(query) * keys).sum((2, 3), keepdim=True)
        x = x + self.out(F.relu(values) * context)
        y: Tensor = x + self.second(F.relu(self.first(x)))
        return y


class Woven(nn.Module):
    """Twelve times the quarters of the channels are added to others of themselves, along two ways."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, 4, 1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(12))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for norm in self.norms:
            a, b, c, d = (F.relu(part) for part in norm(x).chunk(4, 1))
            x = x + 0.1 * (torch.cat([d, a, b, c], 1) + torch.cat([c, d, b, a], 1))
        y: Tensor = self.head(x)
        return y


def one_query() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 1), OneQuery(8), OneQuery(8), nn.Conv2d(8, 4, 1))


def dissected(build: Callable[[], nn.Module]) -> tuple[Model, Dissected]:
    torch.manual_seed(0)
    model = Model(build().eval(), (torch.randn(2, 3, 8, 8),))
    return model, dissect(model, "gates")


def assert_removal_is_exact(model: Model, found: Dissected) -> None:
    kept = random_kept(found.anatomy.units, 0)
    gates = gates_of(kept, found.anatomy.units)
    closed = Gated(model.module, found, {name: Fixed(gate) for name, gate in gates.items()})
    with torch.no_grad():
        left = removed(model.module, found.removal(kept))(*model.example_inputs)
        torch.testing.assert_close(closed(*model.example_inputs), left, rtol=1e-5, atol=1e-5)


def test_channels_that_lead_to_others_one_by_one_are_followed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dependency_graph, "MAX_STEPS", 100)  # as often as lists differ: 14 000
    model, found = dissected(one_query)
    channels = {unit.name: unit.size for unit in found.anatomy.units if unit.kind is Kind.CHANNELS}
    assert channels == {"2.second": 8, "1.first": 24, "2.first": 24}
    assert {each.name: each.reason for each in found.anatomy.whole} == {
        "1.both": "its channels fall into parts of several sizes",
        "2.both": "its channels fall into parts of several sizes",
    }
    assert_removal_is_exact(model, found)


def test_parts_that_meet_along_many_ways_are_one_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dependency_graph, "MAX_STEPS", 600)  # as often as lists differ: 1800
    model, found = dissected(Woven)
    assert [(unit.name, unit.size, unit.parts) for unit in found.anatomy.units] == [("stem", 4, 4)]
    assert not found.anatomy.whole
    assert_removal_is_exact(model, found)


def test_a_group_that_takes_too_many_steps_is_left_whole_and_the_others_are_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dependency_graph, "MAX_STEPS", 40)
    model, found = dissected(
        lambda: nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 3, 1), Woven())
    )
    assert {unit.name for unit in found.anatomy.units} == {"0", "2"}
    assert [(each.name, each.reason) for each in found.anatomy.whole] == [
        ("3.stem", "its channels reach other layers in more than 40 steps, and are not followed further")
    ]
    assert_removal_is_exact(model, found)
