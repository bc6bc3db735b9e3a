"""Compensation: what regression can bring back is brought back, and nothing else is touched."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from edgepress.examples import digits as digits_example
from edgepress.examples.digits.data import digits
from edgepress.examples.digits.models import cnn
from edgepress.model import Model
from edgepress.passes.channels.surgery import Cut, keep_channels
from edgepress.passes.distillation.student_width import choose_channels
from edgepress.passes.gating import whole_outputs
from edgepress.passes.gating.batch_norm import reestimate
from edgepress.passes.gating.compensation import Compensated, compensate
from edgepress.passes.gating.held_out import keep_where_no_worse
from quantization_nets import Net, settled
from safetensors.torch import load_file
from torch import Tensor, nn

Batch = tuple[Tensor, ...]


def cut_of(network: nn.Module, producers: Mapping[str, list[int]], readers: Mapping[str, list[int]]) -> Cut:
    """The cut that keeps outputs of some layers, norms among them, and inputs of others."""
    cut = Cut()
    for name, kept in producers.items():
        for key, tensor in network.get_submodule(name).state_dict().items():
            if tensor.dim():
                cut.tensors.setdefault(f"{name}.{key}", {})[0] = kept
    for name, kept in readers.items():
        cut.tensors.setdefault(f"{name}.weight", {})[1] = kept
    return cut


def cut_down(network: nn.Module, cut: Cut) -> nn.Module:
    smaller = copy.deepcopy(network)
    keep_channels(smaller, cut)
    return smaller.eval()


def batches(count: int, *shape: int, seed: int = 0) -> list[Batch]:
    draws = torch.Generator().manual_seed(seed)
    return [(torch.randn(16, *shape, generator=draws),) for _ in range(count)]


def error(smaller: nn.Module, whole: nn.Module, samples: list[Batch]) -> float:
    """The mean square of what the outputs are off."""
    with torch.no_grad():
        return sum(float((smaller(*x) - whole(*x)).square().mean()) for x in samples) / len(samples)


def state(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def convolutions() -> nn.Sequential:
    """Channel 3 of the first layer is twice channel 0, behind its norm and activation too; channel 2 is constant."""
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(),
        nn.Conv2d(4, 5, 3, stride=2, bias=False), nn.BatchNorm2d(5), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3),
    )  # fmt: skip
    settled(net)
    with torch.no_grad():
        for tensor in net[1].state_dict().values():
            if tensor.dim():
                tensor[3] = tensor[0]
        net[0].weight[3] = net[0].weight[0]
        net[1].weight[3], net[1].bias[3] = 2 * net[1].weight[0], 2 * net[1].bias[0]
        net[1].weight[2], net[1].bias[2] = 0.0, 1.5
    return net


FIT, HELD = batches(4, 2, 9, 9), batches(2, 2, 9, 9, seed=1)


@pytest.mark.parametrize("kept", [[0, 1, 2], [0, 1, 3], [0, 1]])
def test_what_follows_from_kept_inputs_is_recovered(kept: list[int]) -> None:
    """A multiple of a kept channel by the weights, a constant by the mean of the norm that stands for the bias."""
    whole = convolutions()
    cut = cut_of(whole, {"0": kept, "1": kept}, {"3": kept})
    smaller = cut_down(whole, cut)
    lost, before = error(smaller, whole, HELD), state(smaller)
    rows = compensate(whole, smaller, cut, FIT, HELD)
    assert (
        error(smaller, whole, HELD) < 1e-4 * lost
    )  # the weakest ridge keeps some millionths of a change back
    assert rows[0].name == "3"
    assert rows[0].after is not None and rows[0].before is not None and rows[0].after < 1e-4 * rows[0].before
    changed = {name for name, tensor in smaller.state_dict().items() if not torch.equal(tensor, before[name])}
    assert {"3.weight", "4.running_mean"} <= changed <= {"3.weight", "4.running_mean", "8.weight", "8.bias"}


def test_hidden_units_that_follow_from_others_are_recovered_on_tokens() -> None:
    whole = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 5))
    cut = cut_of(whole, {"0": [0, 2, 3, 5, 6, 7]}, {"1": [0, 2, 3, 5, 6, 7]})
    smaller = cut_down(whole, cut)
    [row] = compensate(whole, smaller, cut, batches(4, 7, 4), batches(2, 7, 4, seed=1))
    assert row.name == "1"
    assert row.after is not None and row.after < 1e-6


def test_layers_that_see_what_they_saw_stay_bit_for_bit() -> None:
    whole = convolutions()
    cut = cut_of(whole, {"3": [0, 1, 4], "4": [0, 1, 4]}, {"8": [0, 1, 4]})
    smaller = cut_down(whole, cut)
    before = state(smaller)
    [row] = compensate(whole, smaller, cut, FIT, HELD)
    assert row.name == "8"
    after = smaller.state_dict()
    assert after.keys() == before.keys()
    assert {name for name in before if not torch.equal(before[name], after[name])} == {"8.weight", "8.bias"}


def test_without_a_removal_nothing_changes() -> None:
    whole = convolutions()
    smaller, before = copy.deepcopy(whole), state(whole)
    assert compensate(whole, smaller, Cut(), FIT, HELD) == []
    assert all(torch.equal(before[name], tensor) for name, tensor in smaller.state_dict().items())


def test_no_layer_is_given_a_bias_that_it_lacks() -> None:
    whole = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 5, bias=False))
    cut = cut_of(whole, {"0": [0, 1, 2, 3]}, {"2": [0, 1, 2, 3]})
    smaller = cut_down(whole, cut)
    [row] = compensate(whole, smaller, cut, batches(4, 4), batches(2, 4, seed=1))
    assert row.ridge is not None
    assert smaller.state_dict().keys() == whole.state_dict().keys()


class Skipped(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.one, self.two = nn.LayerNorm(width), nn.Linear(width, 16), nn.Linear(16, width)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.two(torch.relu(self.one(self.norm(x))))
        return y


def test_the_layers_behind_a_removed_block_take_over() -> None:
    whole = nn.Sequential(Block(6), Block(6), Block(6), nn.Linear(6, 3)).eval()
    smaller = copy.deepcopy(whole)
    smaller[1] = Skipped()
    fit, held = batches(8, 5, 6), batches(4, 5, 6, seed=1)
    before = error(smaller, whole, held)
    rows = compensate(whole, smaller, Cut(), fit, held)
    assert [row.name for row in rows] == ["2.one", "2.two", "3"]
    assert error(smaller, whole, held) < 0.5 * before


def test_no_layer_is_further_off_on_samples_that_nothing_was_fitted_to() -> None:
    """Fitted to samples of another kind, and too few of them."""
    whole = settled(nn.Sequential(nn.Conv2d(2, 9, 3), nn.BatchNorm2d(9), nn.ReLU(), nn.Conv2d(9, 7, 3),
                                  nn.ReLU(), nn.Conv2d(7, 4, 3), nn.Flatten(), nn.Linear(36, 3)))  # fmt: skip
    cut = cut_of(whole, {"0": [0, 3, 4], "1": [0, 3, 4]}, {"3": [0, 3, 4]})
    for seed in range(4):
        [(inputs,)] = batches(1, 2, 9, 9, seed=seed)
        smaller = cut_down(whole, cut)
        rows = compensate(whole, smaller, cut, [(10 * inputs[:2].abs() + 3,)], HELD)
        assert len(rows) == 3
        assert all(
            row.before is not None and row.after is not None and row.after <= row.before for row in rows
        )


def test_it_can_be_taken_back_where_the_outputs_are_further_off() -> None:
    """Two readers lose the same, and their difference nothing, until the one that can be compensated is."""
    net = Net(lambda n, x: n.one(n.hidden(x).relu()) - n.hidden(x).relu() @ n.other.weight.T + 0.1 * x,
              hidden=nn.Linear(4, 8), one=nn.Linear(8, 4, bias=False), other=nn.Linear(8, 4))  # fmt: skip
    net.other.weight.data = net.one.weight.detach().clone()
    kept = [0, 1, 2, 3]
    cut = cut_of(net, {"hidden": kept}, {"one": kept, "other": kept})
    smaller, held = cut_down(net, cut), batches(2, 4, seed=1)
    before, rows = state(smaller), list[Compensated]()
    trial = keep_where_no_worse(
        smaller,
        lambda: rows.extend(compensate(net, smaller, cut, batches(4, 4), held)),
        lambda network: error(network, net, held),
    )
    assert not trial.kept
    assert all(torch.equal(before[name], tensor) for name, tensor in smaller.state_dict().items())
    one, other = rows
    assert (one.name, other.name, other.left) == (
        "one",
        "other",
        "nothing is multiplied with its weight as it is",
    )
    assert one.ridge is not None


@pytest.mark.parametrize("how", ["measured anew", "trained"])
def test_a_norm_that_changed_puts_out_what_it_did(how: str) -> None:
    """Its statistics are those of the removal, or its parameters were trained: the layer before it makes up for it."""
    whole = convolutions()
    cut = cut_of(whole, {"0": [0, 1, 2], "1": [0, 1, 2]}, {"3": [0, 1, 2]})
    smaller = cut_down(whole, cut)
    if how == "measured anew":
        reestimate(smaller, FIT)
    else:
        with torch.no_grad():
            smaller[4].weight.mul_(torch.tensor([1.5, 1.0, 0.7, 2.0, -1.0]))
            smaller[4].bias.add_(0.3)
    lost = error(smaller, whole, HELD)
    compensate(whole, smaller, cut, FIT, HELD)
    assert error(smaller, whole, HELD) < 1e-4 * lost


def test_what_was_multiplied_stays_so() -> None:
    """Queries whose scale the removal changed on purpose, so that their products keep theirs."""
    whole = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 5))
    kept = [0, 2, 3, 5, 6, 7]
    cut = cut_of(whole, {"0": kept}, {"1": kept})
    smaller = cut_down(whole, cut)
    with torch.no_grad():
        smaller[1].weight.mul_(0.5)
        smaller[1].bias.mul_(0.5)
    held = batches(2, 7, 4, seed=1)
    compensate(whole, smaller, cut, batches(4, 7, 4), held, {"1.weight": 0.5, "1.bias": 0.5})
    with torch.no_grad():
        [(x,), _] = held
        torch.testing.assert_close(smaller(x), 0.5 * whole(x), rtol=1e-3, atol=1e-3)  # the weakest ridge


def test_layers_that_cannot_be_fitted_are_told_of() -> None:
    net = Net(
        lambda n, x: n.grouped(n.twice(n.twice(n.made(x)))) + n.one(n.two(n.made(x))),
        made=nn.Conv2d(2, 4, 1), twice=nn.Conv2d(4, 4, 1), grouped=nn.Conv2d(4, 4, 1, groups=2),
        one=nn.Conv2d(4, 4, 1), two=nn.Conv2d(4, 4, 1),
    ).eval()  # fmt: skip
    net.two.weight = net.one.weight
    smaller = copy.deepcopy(net)
    cut = Cut({f"{name}.weight": {1: [0, 1]} for name in ("twice", "grouped", "one", "two")})
    left = {row.name: row.left for row in compensate(net, smaller, cut, FIT, HELD)}
    assert left == {
        "twice": "it is called 2 times",
        "grouped": "it is a grouped convolution",
        "one": "another layer shares its weight",
        "two": "another layer shares its weight",
    }


def test_samples_may_lie_along_any_axis_and_in_parts() -> None:
    """(tokens, samples, channels), as attention has them, and windows of each sample, one after another."""
    net = Net(
        lambda n, x: (
            n.second(n.first(x.transpose(0, 1)).relu()).transpose(0, 1)
            + n.third(n.first(x).relu().reshape(8 * len(x), 2, -1)).reshape(*x.shape[:2], 3)
        ),
        first=nn.Linear(4, 8), second=nn.Linear(8, 3), third=nn.Linear(8, 3),
    )  # fmt: skip
    kept = [0, 1, 2, 5]
    cut = cut_of(net, {"first": kept}, {"second": kept, "third": kept})
    fit, held = batches(4, 16, 4), batches(2, 16, 4, seed=1)  # as many tokens as a batch has samples
    smaller = cut_down(net, cut)
    before = error(smaller, net, held)
    rows = compensate(net, smaller, cut, fit, held)
    assert [row.name for row in rows if row.ridge is not None] == ["second", "third"]
    assert error(smaller, net, held) < 0.5 * before


def test_holding_fewer_outputs_at_once_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = convolutions()
    cut = cut_of(whole, {"0": [0, 1], "1": [0, 1]}, {"3": [0, 1]})
    one, other = cut_down(whole, cut), cut_down(whole, cut)
    compensate(whole, one, cut, FIT, HELD)
    monkeypatch.setattr(whole_outputs, "HELD", 1)
    compensate(whole, other, cut, FIT, HELD)
    assert all(
        torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    )


def test_the_digits_network_works_again_without_training() -> None:
    whole = cnn()
    whole.load_state_dict(load_file(Path(digits_example.__file__).parent / "cnn.safetensors"))
    parts = digits()
    images, (tested, _) = parts["train"][0], parts["test"]
    cut, _ = choose_channels(copy.deepcopy(whole), Model(whole, (images[:1],)), 0.7)
    smaller = cut_down(whole, cut)

    def agreement() -> float:
        with torch.no_grad():
            return float((whole(tested).argmax(1) == smaller(tested).argmax(1)).float().mean())

    assert agreement() < 0.5
    compensate(whole, smaller, cut, [(images[:64],)], [(images[64:96],)])
    assert agreement() > 0.95
