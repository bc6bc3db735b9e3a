"""What torch-pruning does not see of a network is found by trying it out; what is wrong is told with its place."""

from __future__ import annotations

import pytest
import torch
import torchvision
from edgepress.model import Model
from edgepress.passes.channels.dissect import dissect
from edgepress.passes.channels.dissected import Dissected
from edgepress.passes.channels.gated import Fixed, Gated
from edgepress.passes.channels.kind import Kind
from edgepress.passes.channels.removal import removed
from edgepress.passes.channels.soundness import random_kept
from edgepress.passes.channels.units import gates_of
from torch import Tensor, nn
from torch.nn import functional as F


class Scale(nn.Module):
    """A layer scale that keeps the shape of its tensor."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.shape, self.scale = (dim, 1, 1), nn.Parameter(torch.rand(dim))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale.view(self.shape)


class KeepsWidths(nn.Module):
    """A forward() that keeps its width as a number, twice: in each of its scales, and to lay out what it returns."""

    def __init__(self) -> None:
        super().__init__()
        self.dim, self.rows = 8, 8  # equal by chance: the one follows, the other does not
        self.stem, self.one, self.other = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), Scale(8)
        self.scale, self.head = Scale(8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.scale(self.stem(x))
        x = x + self.other(self.one(x))
        x = x.reshape(len(x), self.dim, -1)[:, :, : 2 * self.rows].mean(2)
        y: Tensor = self.head(x)
        return y


class Merges(nn.Module):
    """Patch merging: the channels of four positions come to lie side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Linear(3, 6), nn.LayerNorm(24)
        self.reduction, self.head = nn.Linear(24, 10), nn.Linear(10, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        n, h, w, c = x.shape
        x = x.reshape(n, h // 2, 2, w // 2, 2, c).permute(0, 1, 3, 4, 2, 5).flatten(3)
        y: Tensor = self.head(self.reduction(self.norm(x)).mean((1, 2)))
        return y


class GatedBehindToken(nn.Module):
    """A gated MLP behind a class token, which a split along channels must not be taken for."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.token = nn.Linear(3, 8), nn.Parameter(torch.rand(1, 1, 8))
        self.both, self.norm, self.down = nn.Linear(8, 24), nn.LayerNorm(12), nn.Linear(12, 8)
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.token.expand(len(x), -1, -1), self.stem(x)], 1)
        gate, value = self.both(x).chunk(2, -1)
        y: Tensor = self.head((x + self.down(self.norm(F.silu(gate) * value)))[:, 0])
        return y


class MixesTokens(nn.Module):
    """An MLP over positions between two over channels: what it reads and makes are no channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.tokens, self.back = nn.Linear(3, 8), nn.Linear(5, 7), nn.Linear(7, 5)
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.back(F.gelu(self.tokens(self.norm(x).transpose(1, 2)))).transpose(1, 2)
        y: Tensor = self.head(x.mean(1))
        return y


IMAGE, TOKENS = (2, 3, 4, 4), (2, 5, 3)
FOUND = {
    "widths that a forward keeps": (KeepsWidths, IMAGE, {"one"}),
    "channels side by side": (Merges, (2, 4, 4, 3), {"stem", "reduction"}),
    "split behind a class token": (GatedBehindToken, TOKENS, {"both", "down"}),
    "an MLP over positions": (MixesTokens, TOKENS, {"stem", "tokens"}),
}


def error(model: Model, dissected: Dissected, seed: int) -> float:
    """How far the network without random choices is from the gated one, over its largest output."""
    units = dissected.anatomy.units
    kept = random_kept(units, seed)
    gates = {name: Fixed(gate) for name, gate in gates_of(kept, units).items()}
    with torch.no_grad():
        closed = Gated(model.module, dissected, gates)(*model.example_inputs)
        left = removed(model.module, dissected.removal(kept))(*model.example_inputs)
    return float((closed - left).abs().max() / closed.abs().max())


@pytest.mark.parametrize("name", FOUND)
def test_what_else_a_unit_owns_is_found(name: str) -> None:
    build, shape, units = FOUND[name]
    torch.manual_seed(0)
    model = Model(build().eval(), (torch.randn(shape),))
    dissected = dissect(model, "gates")
    assert {unit.name for unit in dissected.anatomy.units} == units
    assert dissected.anatomy.whole == ()
    assert max(error(model, dissected, seed) for seed in range(3)) <= 1e-5  # float32


class Splits(nn.Module):
    """Channels that two layers share out between them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.left, self.right = nn.Conv2d(3, 8, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.stem(x).chunk(2, 1)
        y: Tensor = self.head(F.relu(self.left(left) + self.right(right)))
        return y


class Sorts(nn.Module):
    """Channels by size within a part of the network, and nothing is told by train(), as in some of timm's."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(8, 6), nn.Linear(6, 5), nn.Linear(5, 8)

    def train(self, mode: bool = True) -> None:  # type: ignore[override]
        super().train(mode)

    def forward(self, x: Tensor, size: tuple[int, int], bias: Tensor) -> Tensor:
        y: Tensor = self.third(F.relu(self.second(self.first(x).sort(-1).values)))
        return x + y * size[0] + bias


class Sorting(nn.Module):
    """Blocks that are given a size and a bias beside the tensor that goes through them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(3, 8), nn.Linear(8, 2)
        self.blocks, self.bias = nn.ModuleList([Sorts(), Sorts()]), torch.ones(())

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x, (2, 2), self.bias)
        y: Tensor = self.head(x)
        return y


def test_what_cannot_go_is_told_with_its_place() -> None:
    found = dissect(Model(Splits().eval(), (torch.randn(IMAGE),)), "gates").anatomy
    assert {unit.name for unit in found.units} == {"left"}  # with `right`, to which it is added
    (stem,) = found.whole
    assert (stem.name, "could lose all that it reads" in stem.reason) == ("stem", True)
    network = Sorting()
    network.eval()
    found = dissect(Model(network, (torch.randn(TOKENS),)), "gates").anatomy
    assert {(unit.name, unit.kind) for unit in found.units} == {
        ("blocks.1.third", Kind.CHANNELS), ("blocks.0.second", Kind.CHANNELS), ("blocks.1.second", Kind.CHANNELS),
        ("blocks.0", Kind.BLOCK), ("blocks.1", Kind.BLOCK),
    }  # fmt: skip
    assert sorted((w.name, w.reason) for w in found.whole) == [
        (
            f"blocks.{i}.first",
            f"something other than a layer or a norm mixes its channels, before blocks.{i}.second",
        )
        for i in range(2)
    ]


def test_channels_that_cannot_be_followed_leave_the_others() -> None:
    torch.manual_seed(0)
    network = torchvision.models.shufflenet_v2_x0_5(num_classes=10).eval()
    model = Model(network, (torch.randn(2, 3, 32, 32),))
    dissected = dissect(model, "gates")
    # Channels are shuffled between blocks, and those within them are not.
    found = {unit.name.rpartition(".")[0] for unit in dissected.anatomy.units if unit.kind is Kind.CHANNELS}
    assert found >= {name for name, _ in network.named_modules() if name.endswith("branch2")}
    assert dissected.anatomy.whole
    assert error(model, dissected, 0) <= 1e-5  # float32
