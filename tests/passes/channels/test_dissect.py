"""What is found to be dispensable is: taken out, it leaves what the gated network computes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import timm
import torch
import torchvision
from edgepress.examples.digits.models import cnn, vit
from edgepress.model import Model
from edgepress.passes.channels.dissect import Rules, dissect
from edgepress.passes.channels.dissected import Dissected
from edgepress.passes.channels.gated import Fixed, Gated
from edgepress.passes.channels.kind import Kind
from edgepress.passes.channels.removal import Removal, removed
from edgepress.passes.channels.soundness import random_kept
from edgepress.passes.channels.units import Kept, gates_of
from edgepress.passes.gating.cost import ParamsCost
from torch import Tensor, nn
from torch.nn import functional as F


class GatedMlp(nn.Module):
    """SwiGLU with one layer for both halves, behind an RMSNorm, on a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Linear(12, 16), nn.RMSNorm(16)
        self.both, self.down, self.head = nn.Linear(16, 48), nn.Linear(24, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        gate, value = self.both(self.norm(x)).chunk(2, -1)
        y: Tensor = self.head(x + self.down(F.silu(gate) * value))
        return y


class Mixed(nn.Module):
    """Concatenation, squeeze-excitation, GroupNorm, a grouped and a depthwise convolution, and a flattened map."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 16, 1)
        self.norm, self.depthwise = nn.GroupNorm(4, 24), nn.Conv2d(24, 24, 3, padding=1, groups=24)
        self.squeeze, self.excite = nn.Conv2d(24, 6, 1), nn.Conv2d(6, 24, 1)
        self.grouped, self.bn = nn.Conv2d(24, 32, 3, padding=1, groups=4), nn.BatchNorm2d(32)
        self.head = nn.Linear(32 * 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.left(x), F.relu(self.right(x))], 1)
        x = F.relu(self.depthwise(self.norm(x)))
        x = x * torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))
        x = F.adaptive_avg_pool2d(F.relu(self.bn(self.grouped(x))), 2)
        y: Tensor = self.head(x.flatten(1))
        return y


IMAGE = (2, 3, 32, 32)
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "digits CNN": (cnn, (2, 1, 32, 32)),
    "digits ViT": (vit, (2, 1, 32, 32)),
    "SwiGLU, RMSNorm": (GatedMlp, (2, 5, 12)),
    "concat, SE, GroupNorm, groups, flatten": (Mixed, IMAGE),
    "ResNet-18": (partial(torchvision.models.resnet18, num_classes=10), IMAGE),
    "MobileNetV2": (partial(torchvision.models.mobilenet_v2, num_classes=10), IMAGE),
    "EfficientNet-Lite0": (partial(timm.create_model, "efficientnet_lite0", num_classes=10), IMAGE),
    "RegNet: groups, SE": (partial(torchvision.models.regnet_y_400mf, num_classes=10), IMAGE),
    "ConvNeXt: layer scale, LayerNorm": (partial(timm.create_model, "convnext_atto", num_classes=10), IMAGE),
    "ViT: heads": (partial(timm.create_model, "vit_tiny_patch16_224", img_size=32, depth=3), IMAGE),
    "DINOv2: layer scale": (
        partial(timm.create_model, "vit_small_patch14_dinov2", img_size=28, depth=2, num_classes=2),
        (2, 3, 28, 28),
    ),
}


def network(name: str) -> tuple[Model, Dissected]:
    build, shape = NETWORKS[name]
    torch.manual_seed(0)
    model = Model(build().eval(), (torch.randn(shape),))
    return model, dissect(model, "gates")


def gated(model: Model, dissected: Dissected, kept: Kept) -> Gated:
    gates = gates_of(kept, dissected.anatomy.units)
    return Gated(model.module, dissected, {name: Fixed(gate) for name, gate in gates.items()})


@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_left_is_the_gated_network_and_costs_what_the_terms_say(name: str) -> None:
    model, dissected = network(name)
    anatomy = dissected.anatomy
    assert anatomy.units and not anatomy.whole
    blocks = {unit.name for unit in anatomy.units if unit.kind is Kind.BLOCK}
    for seed in range(3):
        kept = random_kept(anatomy.units, seed)
        if seed:  # all blocks go in the first one
            kept = {
                unit: left
                for unit, left in kept.items()
                if unit not in blocks or sum(unit.encode()) % 3 == seed
            }
        smaller = removed(model.module, Removal.from_json(dissected.removal(kept).to_json()))
        with torch.no_grad():
            closed, left = (
                gated(model, dissected, kept)(*model.example_inputs),
                smaller(*model.example_inputs),
            )
        assert float((closed - left).abs().max()) <= 1e-5 * max(1.0, float(left.abs().max()))
        gates = gates_of(kept, anatomy.units)
        facts = Model(smaller, model.example_inputs).facts()
        assert float(sum(term.of(gates) for term in anatomy.params.values())) == facts.params
        macs = float(sum(term.of(gates) for layer in anatomy.layers for term in layer.macs))
        assert macs == pytest.approx(facts.macs, rel=1e-6)  # sums of float32


def test_open_gates_change_nothing_and_the_network_is_not_touched() -> None:
    model, dissected = network("MobileNetV2")
    before = {name: tensor.clone() for name, tensor in model.module.state_dict().items()}
    with torch.no_grad():
        assert torch.equal(
            gated(model, dissected, {})(*model.example_inputs), model.module(*model.example_inputs)
        )
        removed(model.module, dissected.removal(random_kept(dissected.anatomy.units, 0)))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.module.state_dict().items())


def test_gradients_reach_gates_through_every_layer_that_reads_their_channels() -> None:
    model, dissected = network("concat, SE, GroupNorm, groups, flatten")
    gates = {unit.name: nn.Parameter(torch.ones(unit.size)) for unit in dissected.anatomy.units}

    class Learned(nn.Module):
        def __init__(self, values: nn.Parameter) -> None:
            super().__init__()
            self.values = values

        def forward(self) -> Tensor:
            return self.values

    found = Gated(model.module, dissected, {name: Learned(gate) for name, gate in gates.items()})
    found(*model.example_inputs).square().sum().backward()
    assert all(gate.grad is not None and bool((gate.grad != 0).any()) for gate in gates.values())


class Shuffled(nn.Module):
    """Channels put in another order between two layers, which nothing tells."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).softmax(1)
        y: Tensor = self.head(F.relu(self.second(x)))
        return y


class Chained(nn.Module):
    """Blocks without a residual: what goes in and what comes out are channels of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(4, 8), nn.Linear(8, 2)
        self.blocks = nn.Sequential(
            *(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU()) for _ in range(2))
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.blocks(self.stem(x)))
        return y


def test_what_cannot_go_is_left_whole_and_told_with_its_reason() -> None:
    found = dissect(Model(Shuffled().eval(), (torch.randn(2, 3, 4, 4),)), "gates").anatomy
    assert [unit.name for unit in found.units] == ["second"]
    assert [(w.name, w.reason) for w in found.whole] == [
        ("first", "something other than a layer or a norm mixes its channels, before second")
    ]
    found = dissect(Model(Chained().eval(), (torch.randn(2, 4),)), "gates").anatomy
    assert {unit.kind for unit in found.units} == {Kind.CHANNELS}
    assert [(w.name, "no residual" in w.reason) for w in found.whole] == [
        ("blocks.0", True),
        ("blocks.1", True),
    ]


def test_rules_choose_by_kind_and_by_the_names_of_the_layers_that_are_tied() -> None:
    model, _ = network("ResNet-18")
    channels = dissect(model, "gates", Rules(frozenset({Kind.CHANNELS}), keep=("layer1.0.*", "layer4.1")))
    names = [unit.name for unit in channels.anatomy.units]
    # What is added to the output of layer1.0 is tied to it.
    assert (
        not [name for name in names if name.startswith(("layer1.0", "conv1"))] and "layer1.1.conv1" in names
    )
    assert {w.reason for w in channels.anatomy.whole} == {"named by `keep`"}
    blocks = dissect(model, "gates", Rules(frozenset({Kind.BLOCK}), only=("layer[34].1",)))
    assert [unit.name for unit in blocks.anatomy.units] == ["layer3.1", "layer4.1"]
    assert {w.reason for w in blocks.anatomy.whole} == {"not named by `only`"}


class LayerNorm2d(nn.LayerNorm):
    """Over the channels of a map, as timm has it."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class Shared(nn.Module):
    """Three residual blocks with one pair of weights between them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(1, 8, 3, padding=1), nn.Linear(8, 3)
        self.blocks = nn.Sequential(*(Residual(8) for _ in range(3)))
        for block in self.blocks[1:]:
            block.a.weight, block.b.weight = self.blocks[0].a.weight, self.blocks[0].b.weight

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.blocks(self.stem(x)).mean((2, 3)))
        return y


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.b(F.relu(self.a(x)))


def test_weights_that_blocks_share_are_there_while_any_of_these_is() -> None:
    torch.manual_seed(0)
    model = Model(Shared().eval(), (torch.randn(2, 1, 8, 8),))
    dissected = dissect(model, "test", Rules(frozenset({Kind.BLOCK})))
    cost = ParamsCost(dissected.anatomy)
    kept: Kept = {"blocks.0": (), "blocks.1": ()}
    smaller = removed(model.module, dissected.removal(kept))
    left = sum(p.numel() for p in smaller.parameters())
    assert float(cost.of(gates_of(kept, dissected.anatomy.units))) == left
    assert cost.whole == sum(p.numel() for p in model.module.parameters())


@pytest.mark.parametrize("norm", [nn.GroupNorm(1, 8), nn.GroupNorm(2, 8), LayerNorm2d(8)])
def test_a_norm_all_of_whose_channels_are_closed_leaves_numbers(norm: nn.Module) -> None:
    torch.manual_seed(0)
    branch = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), norm, nn.Conv2d(8, 1, 1), nn.Flatten(), nn.Linear(64, 3)
    )
    model = Model(branch.eval(), (torch.randn(2, 1, 8, 8),))
    dissected = dissect(model, "test", Rules(frozenset({Kind.CHANNELS})))
    [unit] = dissected.anatomy.units
    gate = torch.zeros(unit.size, requires_grad=True)
    found = Gated(model.module, dissected, {unit.name: Fixed(gate)})(*model.example_inputs)
    (gradient,) = torch.autograd.grad(found.sum(), gate)
    assert bool(torch.isfinite(found).all()) and bool(torch.isfinite(gradient).all())
